"""Batch: what one rank consumes in one step.

Shapes: B users of this rank, T tokens of all their histories, U distinct items, P targets, C candidates (the same C on
every rank), n negatives per target, A attributes, V distinct values of all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Int64Array = npt.NDArray[np.int64]


class Group(NamedTuple):
    """Neighbouring users of like length, who share a rectangle in attention. Plain numbers, known to the host."""

    users: int
    tokens: int
    """Tokens of their histories together."""
    width: int
    """Longest history of them, at least 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's input. Items appear once in ``item_ids``; everything else points into it by row.

    Invariants: ids are int64; ``item_ids`` has no duplicates and is never empty; users stand in order of falling
    history length, so that groups pad little; histories lie one after another, oldest item first, without padding;
    there is at least one group, and groups cover the users in order; no two targets have the same owner and prefix.
    """

    users: Tensor
    """User index, int64 [B]."""
    item_ids: Tensor
    """Distinct item indices of this rank's step, int64 [U]."""
    history: Tensor
    """Rows of item_ids, user after user, int64 [T]."""
    lengths: Tensor
    """Length of each history, int64 [B]."""
    groups: tuple[Group, ...]
    """Users whose attention runs together."""
    prefix: Tensor
    """How many items of its user's history each target is predicted from, 0 … length, int64 [P]."""
    owner: Tensor
    """User (row of this batch) of each target, int64 [P]."""
    targets: Tensor
    """Row of each target, int64 [P]."""
    profile_values: Tensor
    """Distinct value indices of each attribute, attribute after attribute, int64 [V]."""
    profile_counts: tuple[int, ...]
    """How many of them each attribute has."""
    profile_rows: Tensor
    """Rows of profile_values, int64 [A, B]."""
    total_targets: float
    """Targets in this rank's batch (P); summed over ranks it normalises the loss."""
    candidates: Tensor | None = None
    """softmax: rows of this rank's share of the shared candidates; full_softmax: of its part of the catalogue (C then
    differs by rank), int64 [C]."""
    candidate_log_q: Tensor | None = None
    """softmax: log of each candidate's expected count among all candidates; +inf marks padding, float32 [C]."""
    negatives: Tensor | None = None
    """bpr and bce: rows of each target's own negatives, int64 [P, n]."""
    masked_history: Tensor | None = None
    """Contrastive view: histories with interactions dropped, rows of item_ids, int64 [T']; None = no views."""
    masked_lengths: Tensor | None = None
    """Length of each masked history, int64 [B]."""
    max_users_per_rank: int = 0
    """Training: users of the rank that has most in this step; what is gathered by user is padded to as many rows."""
    masked_buckets: tuple[Group, ...] = ()
    """The same users' groups in the masked view."""

    @property
    def profile(self) -> Tensor:
        """Attribute value indices, int64 [A, B]."""
        return self.profile_values[self.profile_rows]

    def _map(self, function: str, *args: Any, **kwargs: Any) -> Batch:
        def apply(value: Any) -> Any:
            return getattr(value, function)(*args, **kwargs) if isinstance(value, Tensor) else value

        fields = dataclasses.fields(self)
        return dataclasses.replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields})

    def to(self, device: torch.device) -> Batch:
        """Copy to ``device`` without waiting for the copy."""
        return self if device.type == "cpu" else self._map("to", device, non_blocking=True)

    def pin_memory(self) -> Batch:
        return self._map("pin_memory")

    def __reduce__(self) -> tuple[Any, ...]:
        # From a loader's process a batch travels by value. Torch would open a file for each tensor and a connection to
        # fetch it: training then waited three times as long (measured, 128 users).
        return _from_arrays, ({n: v.numpy() if isinstance(v, Tensor) else v for n, v in vars(self).items()},)


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


def _from_arrays(fields: dict[str, Any]) -> Batch:
    arrays: dict[str, Any] = {n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in fields.items()}
    return Batch(**arrays)
