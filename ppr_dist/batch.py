"""Batch: what one rank consumes in one step.

Shapes: B users of this rank, T clicks of all their histories, U distinct items, P targets, A attributes, V distinct
values of all of them, F numbers of a user's vector, u distinct labels of a space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppr_dist.arrays import Int64Array


class Bucket(NamedTuple):
    """Neighbouring sequences of similar length, padded to one width for attention. Plain numbers, known to the host."""

    sequences: int
    tokens: int
    """Their lengths summed."""
    width: int
    """Longest of them, at least 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """Clicks of the batch's users, user after user, oldest first, without padding."""

    items: Tensor
    """Rows of ``Batch.item_ids``, int64 [T]."""
    lengths: Tensor
    """Clicks of each user, int64 [B]."""
    buckets: tuple[Bucket, ...]
    """Cover the users in order; at least one."""
    masked: Tensor | None = None
    """Which clicks show the model's mask in place of their item, bool [T]; None: none."""
    times: Tensor | None = None
    """When each click was, Unix seconds, int64 [T]; None where the data has no times."""
    asked_at: Tensor | None = None
    """When the click after each was, int64 [T]: the time of a target; None unless the model is to see it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """The users once more, changed, as a contrastive objective wants to see them."""

    history: History | None = None
    """None: the batch's own."""
    profile_dropout: float = 0.0
    """Probability with which an element of the profile's embedding is dropped."""


@dataclasses.dataclass(frozen=True)
class UserLabels:
    """Labels of the batch's users in a label space."""

    values: Tensor
    """User after user, int64."""
    lengths: Tensor
    """How many each user has, int64 [B]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's input. Items appear once in ``item_ids``; everything else points into it by row.

    Invariants: ids are int64; ``item_ids`` has no duplicates and is never empty; users stand in descending order of
    history length, so that buckets pad little; no two targets have the same user row and context length.
    """

    users: Tensor
    """User index, int64 [B]."""
    item_ids: Tensor
    """Distinct item indices of this rank's step, int64 [U]."""
    history: History
    user_rows: Tensor
    """User (row of this batch) of each target, int64 [P]."""
    context_lengths: Tensor
    """How many clicks of its user's history each target is predicted from, 0 … length, int64 [P]; where targets are
    masked clicks of it, all of it is seen, and the state is that of the last of these."""
    targets: Tensor
    """Row of item_ids of each target, int64 [P]."""
    profile_values: Tensor
    """Distinct value indices of each attribute, attribute after attribute, int64 [V]."""
    profile_counts: tuple[int, ...]
    """How many of them each attribute has."""
    profile_rows: Tensor
    """Rows of profile_values, int64 [A, B]."""
    labels: dict[str, UserLabels] = dataclasses.field(default_factory=dict)
    """By label space, where the data has labels."""
    user_vectors: Tensor | None = None
    """Vector of each user beside the attributes, float16 [B, F]; None where the data has none."""
    keys: Tensor | None = None
    """Training: a random number of each user for this step, int64 [B], of which dropout makes its draws."""
    users_hash: int = 0
    """Training: :func:`ppr_dist.checkpoint.certificate.hash_of` the users."""
    max_users_per_rank: int = 0
    """Training: users of the rank that has most in this step; what is gathered by user is padded to as many rows."""
    asked_items: int = 0
    """Items asked for, of which ``item_ids`` are the distinct ones."""
    label_ids: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Training: distinct labels of this rank's step in each space that is a table, int64 [u]."""
    drawn: dict[str, dict[str, Tensor]] = dataclasses.field(default_factory=dict)
    """What each objective drew for this step, by its name (:meth:`ppr_dist.objectives.base.Objective.draw`)."""
    views: dict[str, tuple[View, ...]] = dataclasses.field(default_factory=dict)
    """Views each objective wants encoded, by its name."""

    @property
    def profile(self) -> Tensor:
        """Attribute value indices, int64 [A, B]."""
        return self.profile_values[self.profile_rows]

    def to(self, device: torch.device) -> Batch:
        """Copy to ``device`` without waiting for the copy."""
        if device.type == "cpu":
            return self
        moved: Batch = map_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))
        return moved

    def pin_memory(self) -> Batch:
        pinned: Batch = map_tensors(self, Tensor.pin_memory)
        return pinned

    def __reduce__(self) -> tuple[Any, ...]:
        # From a loader's process a batch travels by value. Torch would open a file for each tensor and a connection to
        # fetch it: training then waited three times as long (measured, 128 users).
        return _from_arrays, (_map(vars(self), Tensor, Tensor.numpy),)


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Apply ``function`` to every tensor in nested dataclasses, dicts and tuples."""
    return _map(value, Tensor, function)


def _map(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, dict):
        return {key: _map(each, kind, function) for key, each in value.items()}
    if type(value) is tuple:  # not a Bucket
        return tuple(_map(each, kind, function) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _map(getattr(value, f.name), kind, function) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def _from_arrays(fields: dict[str, Any]) -> Batch:
    return Batch(**_map(fields, np.ndarray, torch.from_numpy))


def distinct_values(profile: Int64Array) -> dict[str, Any]:
    """A batch's profile fields from value indices [A, B]: each value of an attribute is looked up once."""
    found = [np.unique(values, return_inverse=True) for values in profile]
    first = np.cumsum([0, *(len(values) for values, _ in found)])
    rows = np.stack([row + start for start, (_, row) in zip(first, found, strict=False)]) if found else profile
    return {
        "profile_values": torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(values for values, _ in found)])),
        "profile_counts": tuple(len(values) for values, _ in found),
        "profile_rows": torch.from_numpy(rows.astype(np.int64, copy=False)),
    }
