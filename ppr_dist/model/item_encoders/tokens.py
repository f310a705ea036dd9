"""Words of an item's text through a small transformer, trained end to end: MoRec without a pre-trained text encoder.

Shapes: U distinct items of a step, L tokens of each (0: none), D width, H heads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.data.manifest import TOKEN_BASE, TOKENS, ItemData
from ppr_dist.errors import UserError, require_positive
from ppr_dist.model.item_encoders.base import ItemEncoder, known_rows, small_


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Tokens: the words of items' texts through a small transformer."""

    layers: int = 1
    """Transformer layers."""
    heads: int = 2
    """Attention heads; divides ``model.dim``."""
    ffn_multiple: int = 2
    """Hidden width of a layer's feed-forward network, in multiples of ``model.dim``."""

    def __post_init__(self) -> None:
        require_positive(self, "tokens", "layers", "heads", "ffn_multiple")


class Tokens(ItemEncoder):
    """The mean of a text's states, projected."""

    section = Settings

    @classmethod
    def reads(cls, settings: Settings, known: Mapping[str, ItemData]) -> tuple[str, ...]:
        if TOKENS not in known:
            raise UserError("model.item_encoders tokens: the data has none; prepare it with --items FILE")
        return (TOKENS,)

    def __init__(self, settings: Settings, dim: int, known: Mapping[str, ItemData]) -> None:
        super().__init__(settings, dim, known)
        if dim % settings.heads:
            raise UserError(f"model.dim {dim} is not divisible by tokens.heads {settings.heads}")
        self.length, self.dim = known[TOKENS].columns // 2, dim
        # The row of 0 is never read: what stands behind a text has no weight.
        self.words = nn.Parameter(torch.randn(known[TOKENS].values + 1, dim) / math.sqrt(dim))
        self.positions = nn.Parameter(torch.randn(self.length, dim) * 0.02)
        self.layers = nn.ModuleList(Layer(settings, dim) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(dim)
        self.out = small_(nn.Linear(dim, dim))

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        high, low = rows[TOKENS].chunk(2, dim=1)
        tokens = (high * TOKEN_BASE + low).long()
        real = tokens > 0
        x = F.embedding(tokens, self.words) * math.sqrt(self.dim) + self.positions
        seen = real.clone()
        seen[:, 0] = True  # a text without words attends to something, and counts for nothing
        for layer in self.layers:
            x = layer(x, seen[:, None, None, :])
        weights = real.to(x.dtype) / real.sum(1, keepdim=True).clamp(min=1)
        states = torch.einsum("ul,uld->ud", weights, self.norm(x))
        vectors: Tensor = self.out(states) * known_rows(rows[TOKENS])
        return vectors

    def flops(self) -> float:
        of_rows = sum(p.numel() for layer in self.layers for p in layer.parameters() if p.dim() > 1)
        attention = 2 * self.dim * self.length**2 * len(self.layers)
        return 2.0 * (self.length * (of_rows + self.dim) + attention + self.dim**2)

    def step_flops(self) -> float:
        # The fused attention computes its scores again for the gradients.
        return super().step_flops() + 2.0 * self.dim * self.length**2 * len(self.layers)


class Layer(nn.Module):
    """Attention over all tokens of a text and a feed-forward network, each behind its layer norm."""

    def __init__(self, settings: Settings, dim: int) -> None:
        super().__init__()
        self.heads = settings.heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up = nn.Linear(dim, settings.ffn_multiple * dim)
        self.down = nn.Linear(settings.ffn_multiple * dim, dim)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """[U, L, D] → [U, L, D]; ``seen``: which tokens are attended to, [U, 1, 1, L]."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind()
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        states: Tensor = x + self.down(F.gelu(self.up(self.feed_forward_norm(x))))
        return states
