"""The layers of SASRec and BERT4Rec, and what both say of them.

Shapes: R rows of all sequences, D width.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.errors import UserError
from ppr_dist.model.attention import attend
from ppr_dist.model.backbones.base import Backbone
from ppr_dist.model.dropout import Dropout
from ppr_dist.model.packed_sequences import PackedSequences


class Transformer(Backbone):
    """A stack of layers; a subclass adds positions and what stands behind the last one."""

    def __init__(self, name: str, settings: Any, dim: int, max_length: int, dropout: float, *, pre_norm: bool) -> None:
        """``name``: that of the section ``settings``, which has ``layers``, ``heads``, ``ffn_multiple`` and
        ``attention_dropout``. Raises :class:`UserError` where heads do not divide the width.
        """
        super().__init__(settings, dim, max_length, dropout)
        if dim % settings.heads:
            raise UserError(f"model.dim {dim} is not divisible by {name}.heads {settings.heads}")
        self.settings, self.dim = settings, dim
        self.layers = nn.ModuleList(
            Layer(settings, dim, dropout, pre_norm=pre_norm, causal=self.causal) for _ in range(settings.layers)
        )

    def through_layers(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        """[R, D] → [R, D]."""
        for number, layer in enumerate(self.layers):
            x = layer(sequences.with_own_prompts(x, number), sequences)
        return x

    @property
    def prompted_layers(self) -> int:
        return len(self.layers)

    def adaptable(self) -> tuple[str, ...]:
        return tuple(f"layers.{n}.{branch}" for n in range(len(self.layers)) for branch in ("out", "down"))

    def last_layer(self) -> tuple[str, ...]:
        return f"layers.{len(self.layers) - 1}.", "norm."

    def flops(self, rows: int, squared: int) -> float:
        linear = 2 * (4 + 2 * self.settings.ffn_multiple) * self.dim**2 * rows
        return self.settings.layers * (linear + 4 * self.dim * squared)

    def step_flops(self, rows: int, squared: int) -> float:
        # The fused attention computes its scores again for the gradients.
        return super().step_flops(rows, squared) + self.settings.layers * 2 * self.dim * squared


class Layer(nn.Module):
    """Multi-head attention, then a feed-forward network, each with dropout, a residual and a norm: before it (pre), or
    behind the residual (post).
    """

    def __init__(self, settings: Any, dim: int, dropout: float, *, pre_norm: bool, causal: bool) -> None:
        super().__init__()
        self.heads, self.attention_dropout = settings.heads, settings.attention_dropout
        self.pre_norm, self.causal = pre_norm, causal
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, settings.ffn_multiple * dim)
        self.down = nn.Linear(settings.ffn_multiple * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        """[R, D] → [R, D]; a row sees all rows of its sequence, or itself and what stands before it (causal)."""
        if self.pre_norm:
            x = x + self.attend(self.attention_norm(x), sequences)
            return x + self.feed_forward(self.feed_forward_norm(x), sequences)
        x = self.attention_norm(x + self.attend(x, sequences))
        normed: Tensor = self.feed_forward_norm(x + self.feed_forward(x, sequences))
        return normed

    def attend(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        mixed: Tensor = self.out(attend(self.qkv(x), sequences, self.heads, dropout, causal=self.causal))
        dropped: Tensor = self.dropout(mixed, sequences)
        return dropped

    def feed_forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        hidden: Tensor = self.dropout(self.down(F.gelu(self.up(x))), sequences)
        return hidden
