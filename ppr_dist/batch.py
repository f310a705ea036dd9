"""Batch: what one rank consumes in one step.

Shapes: B users of this rank in G groups of like length, group g with B_g users padded to L_g; U distinct items,
P targets, C candidates (the same C on every rank), n negatives per target, A attributes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's input. Items appear once in ``item_ids``; everything else points into it by row.

    Invariants: ids are int64; ``item_ids`` has no duplicates and is never empty; users stand in order of falling
    history length, so that groups pad little; histories are left-aligned, oldest first, and entries past a
    history's length point at row 0 and are never attended to. Slot t of a user is the state after t items,
    t = 0 … length; a group has B_g·(L_g + 1) slots, and slots are numbered through all groups.
    """

    users: Tensor
    """User index, int64 [B]."""
    item_ids: Tensor
    """Distinct item indices of this rank's step, int64 [U]."""
    history: tuple[Tensor, ...]
    """Rows of item_ids, int64 [B_g, L_g] for each group."""
    lengths: Tensor
    """Length of each history, int64 [B]."""
    first_slot: Tensor
    """Number of each user's slot 0, int64 [B]."""
    slots: Tensor
    """Slot each target is predicted from, int64 [P]."""
    owner: Tensor
    """User (row of this batch) of each target, int64 [P]."""
    targets: Tensor
    """Row of each target, int64 [P]."""
    profile: Tensor
    """Attribute value indices, int64 [A, B]."""
    total_targets: float
    """Targets in this rank's batch (P); summed over ranks it normalises the loss."""
    candidates: Tensor | None = None
    """softmax: rows of this rank's share of the shared candidates; full_softmax: of its part of the catalogue (C then
    differs by rank), int64 [C]."""
    candidate_log_q: Tensor | None = None
    """softmax: log of each candidate's expected count among all candidates; +inf marks padding, float32 [C]."""
    negatives: Tensor | None = None
    """bpr and bce: rows of each target's own negatives, int64 [P, n]."""
    masked_history: tuple[Tensor, ...] = ()
    """Contrastive view: histories with interactions dropped, rows, int64 [B_g, L_g]; empty = no views."""
    masked_lengths: Tensor | None = None
    """Length of each masked history, int64 [B]."""

    def _map(self, function: str, *args: Any, **kwargs: Any) -> Batch:
        def apply(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(apply(v) for v in value)
            return getattr(value, function)(*args, **kwargs) if isinstance(value, Tensor) else value

        fields = dataclasses.fields(self)
        return dataclasses.replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields})

    def to(self, device: torch.device) -> Batch:
        """Copy to ``device`` without waiting for the copy."""
        return self if device.type == "cpu" else self._map("to", device, non_blocking=True)

    def pin_memory(self) -> Batch:
        return self._map("pin_memory")
