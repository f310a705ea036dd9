"""SASRec (Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.errors import UserError, require_positive, require_probability
from ppr_dist.model.attention import attend
from ppr_dist.model.backbones.base import Backbone
from ppr_dist.model.dropout import Dropout
from ppr_dist.model.packed_sequences import PackedSequences


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """SASRec: a causal transformer."""

    layers: int = 2
    """Transformer layers."""
    heads: int = 2
    """Attention heads; divides ``model.dim``."""
    ffn_multiple: int = 4
    """Hidden width of a layer's feed-forward network, in multiples of ``model.dim``."""
    positions: Literal["first", "last"] = "first"
    """Where positions count from. ``first``: the first interaction kept, so that training asks after each context what
    evaluation asks (measured: few-shot better, next item no worse). ``last``: back from the last one, as with SASRec's
    left padding; training then agrees with evaluation at the whole history alone."""

    norm: Literal["pre", "post"] = "pre"
    """Layer norms before attention and feed-forward network (pre), or behind their residuals as in the first
    transformer (post)."""
    attention_dropout: float = 0.0
    """Dropout probability on attention weights. On a GPU it costs little; on a CPU it rules the fused kernel out.
    Unlike other dropout its draws depend on the number of ranks."""

    def __post_init__(self) -> None:
        require_positive(self, "sasrec", "layers", "heads", "ffn_multiple")
        require_probability(self, "sasrec", "attention_dropout")


class SASRec(Backbone):
    """A stack of transformer layers with learned positions; a prompt has none."""

    section = Settings

    def __init__(self, settings: Settings, dim: int, max_length: int, dropout: float) -> None:
        super().__init__(settings, dim, max_length, dropout)
        if dim % settings.heads:
            raise UserError(f"model.dim {dim} is not divisible by sasrec.heads {settings.heads}")
        self.settings, self.dim = settings, dim
        self.layers = nn.ModuleList(Layer(settings, dim, dropout) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(dim)
        self.positions = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        self.dropout = Dropout(dropout)

    def embed(self, items: Tensor, sequences: PackedSequences) -> Tensor:
        position = sequences.position
        if self.settings.positions == "last":
            position = sequences.lengths[sequences.sequence] - 1 - position
        x: Tensor = items * math.sqrt(self.dim) + F.embedding(position, self.positions)
        return self.dropout(x, sequences)

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(sequences.with_own_prompts(x, number), sequences)
        states: Tensor = self.norm(x)
        return states

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
    """Attention and feed-forward network with residuals (SASRec §III-B)."""

    def __init__(self, settings: Settings, dim: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = settings.heads, settings.attention_dropout
        self.pre_norm = settings.norm == "pre"
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, settings.ffn_multiple * dim)
        self.down = nn.Linear(settings.ffn_multiple * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        """[R, D] → [R, D]; a row sees itself and what stands before it in its sequence."""
        if self.pre_norm:
            x = x + self.attend(self.attention_norm(x), sequences)
            return x + self.feed_forward(self.feed_forward_norm(x), sequences)
        x = self.attention_norm(x + self.attend(x, sequences))
        normed: Tensor = self.feed_forward_norm(x + self.feed_forward(x, sequences))
        return normed

    def attend(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        mixed: Tensor = self.dropout(self.out(attend(self.qkv(x), sequences, self.heads, dropout)), sequences)
        return mixed

    def feed_forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        hidden: Tensor = self.dropout(self.down(F.gelu(self.up(x))), sequences)
        return hidden
