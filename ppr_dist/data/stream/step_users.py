"""What an objective draws from, and what it draws, for one step: numpy, on the host.

Shapes: B users of this rank, E their clicks, targets included, T those of the histories, P targets, A attributes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ppr_dist.arrays import Int64Array
from ppr_dist.batch import Bucket
from ppr_dist.data.stream.item_shares import ItemShares, MixedShares
from ppr_dist.data.stream.users import Ragged


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepUsers:
    """This rank's users of one step, cut to what is trained on, on the host: what an objective draws from.

    Users stand in descending order of their clicks. Every draw must be a function of (seed, epoch, user or step), so
    that W ranks draw together what one rank draws.
    """

    index: Int64Array
    """User index, [B]."""
    attributes: Int64Array
    """Value index of each attribute, 0 = unknown, [A, B]."""
    clicks: Int64Array
    """Item of every click, user after user, oldest first, [E]."""
    counts: Int64Array
    """How many of them each user has, [B]."""
    first_target: Int64Array
    """Which of a user's clicks is the first target, [B]."""
    user_rows: Int64Array
    """User of each target, [P]."""
    context_lengths: Int64Array
    """Rows of the history after which each target is predicted, [P]: those of the clicks before it, and its own where
    targets are masked."""
    buckets: tuple[Bucket, ...]
    """Of the histories."""
    place: Int64Array
    """Where each user stands in this rank's part of the global batch, [B]."""
    epoch: int
    step: int
    global_users: int
    """Users in the global batch."""
    items: int
    """Size of the catalogue."""
    probability: npt.NDArray[np.float32] | ItemShares | MixedShares
    """Share of each item among the split's training clicks, [items]."""
    shown: MixedShares | None
    """Above 0 for items on which there is a click to train on; None: those without one are not hidden."""
    seed: int
    rank: int
    world_size: int
    lengths: Int64Array
    """Length of each history, [B]: all of a user's clicks but the last, or all where some are masked to be targets."""
    labels: dict[str, Ragged]
    """Labels of each user in every label space of the data."""
    vectors: npt.NDArray[np.float16] | None = None
    """A vector of each user beside the attributes, [B, F]."""

    def hidden(self, ids: Int64Array) -> npt.NDArray[np.bool_]:
        """Which of ``ids`` training may not know of (``prepare --hide-items``), not even as items nobody clicked."""
        return np.zeros(ids.shape, np.bool_) if self.shown is None else self.shown[ids] == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnView:
    """A view of the users: which clicks of their histories, in which order."""

    clicks: Int64Array
    """Numbers of clicks among all histories' [T], user after user."""
    masked: npt.NDArray[np.bool_] | None = None
    """Which of them show the model's mask in place of their item; None: none more than the histories have."""
    lengths: Int64Array
    """How many each user has, [B]."""
    buckets: tuple[Bucket, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """What an objective drew for a step."""

    item_ids: dict[str, Int64Array] = dataclasses.field(default_factory=dict)
    """Items to look up, of any shape. ``batch.drawn[objective]`` has each as rows of ``batch.item_ids``."""
    label_ids: dict[str, Int64Array] = dataclasses.field(default_factory=dict)
    """Distinct labels to look up in each label space that is a table, never none."""
    tensors: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arrays that ``batch.drawn[objective]`` has as they are."""
    views: tuple[tuple[DrawnView | None, float], ...] = ()
    """Views to encode, each with the probability of profile dropout; None: the histories as they are."""
