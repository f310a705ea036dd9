"""The item encoders of a model as one: their vectors added up, or joined and projected.

Shapes: U distinct items, D width, E encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ppr_dist.model.item_encoders.base import ItemEncoder


class CombinedItems(nn.Module):
    def __init__(self, encoders: Mapping[str, ItemEncoder], dim: int, combine: Literal["sum", "concat"]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.join: nn.Linear | None = None
        if combine == "concat" and len(encoders) > 1:
            # Orthogonal: of vectors as large as rows of the table it makes some as large.
            self.join = nn.Linear(len(encoders) * dim, dim, bias=False)
            nn.init.orthogonal_(self.join.weight)

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Rows by name (:meth:`ItemEncoder.forward`) → float32 vectors [U, D]."""
        vectors = [encoder(rows).float() for encoder in self.encoders.values()]
        if self.join is not None:
            joined: Tensor = self.join(torch.cat(vectors, dim=1)).float()
            return joined
        return vectors[0] if len(vectors) == 1 else torch.stack(vectors).sum(0)

    def step_flops(self) -> float:
        """FLOPs of a forward and a backward pass for one item."""
        join = 0.0 if self.join is None else 3 * 2.0 * self.join.weight.numel()
        return join + sum(encoder.step_flops() for encoder in self.encoders.values())  # type: ignore[operator]
