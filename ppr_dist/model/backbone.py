"""SASRec-type causal transformer (Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018).

Shapes: B sequences, L tokens, D width, H heads.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.model.dropout import Dropout


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

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] → [B, L, D]; token i sees tokens 0 … i."""
        batch, length, dim = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        # No dropout on attention weights: it would rule the fused kernels out on CPU.
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, dim)))
        hidden = F.gelu(self.up(self.feed_forward_norm(x)))
        return x + self.dropout(self.down(hidden))


class Backbone(nn.Module):
    """A stack of blocks. Padding goes after the real tokens, so the causal mask is the only mask needed."""

    def __init__(self, dim: int, blocks: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, feed_forward, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] → [B, L, D]."""
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out
