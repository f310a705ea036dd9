"""Semantic ids: each item a few codes, found by residual quantisation of its features; its vector is their sum.

Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, section 3.1, with k-means at each level in
place of an RQ-VAE (``prepare --code-levels``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.data.manifest import CODES, ItemData
from ppr_dist.errors import UserError
from ppr_dist.model.item_encoders.base import INIT_STD, ItemEncoder, known_rows


class Codes(ItemEncoder):
    """A vector for each code of each level: a table of ``values`` rows per level, whatever the number of items."""

    @classmethod
    def reads(cls, settings: None, known: Mapping[str, ItemData]) -> tuple[str, ...]:
        if CODES not in known:
            raise UserError("model.item_encoders codes: the data has none; prepare it with --code-levels")
        return (CODES,)

    def __init__(self, settings: None, dim: int, known: Mapping[str, ItemData]) -> None:
        super().__init__(settings, dim, known)
        levels, self.values = known[CODES].columns, known[CODES].values
        self.vectors = nn.Parameter(torch.randn(levels * self.values, dim) * (INIT_STD / levels**0.5))

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        codes = rows[CODES]  # 1 … values; 0 where nothing is known of the item
        first = self.values * torch.arange(codes.shape[1], device=codes.device)
        found = F.embedding((codes.long() - 1).clamp(min=0) + first, self.vectors)
        return found.sum(1) * known_rows(codes)
