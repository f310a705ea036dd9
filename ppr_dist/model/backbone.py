"""SASRec-type causal transformer (Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018).

Shapes: R tokens of all sequences, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.model.dropout import Dropout
from ppr_dist.model.sequences import Rectangle, attend


class Block(nn.Module):
    """Pre-norm attention and feed-forward with residuals (SASRec §III-B)."""

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, feed_forward * dim)
        self.down = nn.Linear(feed_forward * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, rectangles: list[Rectangle]) -> Tensor:
        """[R, D] → [R, D]; a token sees itself and what stands before it in its sequence."""
        mixed = attend(self.qkv(self.attention_norm(x)), rectangles, self.heads)
        x = x + self.dropout(self.out(mixed))
        hidden = F.gelu(self.up(self.feed_forward_norm(x)))
        return x + self.dropout(self.down(hidden))


class Backbone(nn.Module):
    """A stack of blocks over sequences that lie one after another without padding."""

    def __init__(self, dim: int, blocks: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, feed_forward, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, rectangles: list[Rectangle]) -> Tensor:
        """[R, D] → [R, D]."""
        for block in self.blocks:
            x = block(x, rectangles)
        out: Tensor = self.norm(x)
        return out
