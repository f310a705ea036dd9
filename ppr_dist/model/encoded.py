"""What the sequential model makes of a batch.

Shapes: B users, P targets, V views of all objectives, D width.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ppr_dist.batch import Batch


class Encoded(NamedTuple):
    """Vectors of a batch's users, float32. A tuple, in which DeepSpeed's hooks find the tensors."""

    user: Tensor
    """User vector at each target [P, D]."""
    final: Tensor | None
    """Where an objective wants views: the backbone's state after the whole history, and of each view, [1 + V, B, D]."""
    heads: dict[str, Tensor]
    """Output of each of the objectives' heads for the user vectors after the whole history [B, …], by its name."""

    def final_of(self, batch: Batch, objective: str) -> tuple[Tensor, ...]:
        """The states after the history and after each view of ``objective``, [B, D] each."""
        assert self.final is not None, f"{objective} drew no views"
        first = 1
        for name, views in batch.views.items():
            if name == objective:
                return self.final[0], *self.final[first : first + len(views)]
            first += len(views)
        raise KeyError(objective)
