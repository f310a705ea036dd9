"""BERT4Rec (Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
Transformer", CIKM 2019).
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.data.stream.cloze import Cloze
from ppr_dist.errors import UserError, require_positive, require_probability
from ppr_dist.model.attention import attend
from ppr_dist.model.backbones.base import Backbone
from ppr_dist.model.dropout import Dropout
from ppr_dist.model.packed_sequences import PackedSequences


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """BERT4Rec: a transformer that sees all of a sequence, trained on masked items."""

    layers: int = 2
    """Transformer layers."""
    heads: int = 2
    """Attention heads; divides ``model.dim``."""
    ffn_multiple: int = 4
    """Hidden width of a layer's feed-forward network, in multiples of ``model.dim``."""
    mask: float = 0.2
    """Share of a sequence's clicks that are masked and predicted, at least one (ρ; the authors' for MovieLens-1M)."""
    last: float = 0.1
    """Probability that in place of these the last click alone is masked (the authors' code: 1 sequence of 11)."""
    attention_dropout: float = 0.0
    """As ``sasrec.attention_dropout``."""

    def __post_init__(self) -> None:
        require_positive(self, "bert4rec", "layers", "heads", "ffn_multiple")
        require_probability(self, "bert4rec", "attention_dropout")
        if not (0 < self.mask <= 1 and 0 <= self.last <= 1):
            raise UserError(f"bert4rec.mask {self.mask} must be in (0, 1], bert4rec.last {self.last} in [0, 1]")


class BERT4Rec(Backbone):
    """Post-norm layers with GELU and learnt positions (§3.3 to 3.5); behind them the projection of eq. 7, normalised as
    in the authors' code. Scores are dot products, so the bias of each item that eq. 7 adds is left out.
    """

    section = Settings
    causal = False

    def __init__(self, settings: Settings, dim: int, max_length: int, dropout: float) -> None:
        super().__init__(settings, dim, max_length, dropout)
        if dim % settings.heads:
            raise UserError(f"model.dim {dim} is not divisible by bert4rec.heads {settings.heads}")
        self.settings, self.dim = settings, dim
        self.layers = nn.ModuleList(Layer(settings, dim, dropout) for _ in range(settings.layers))
        self.positions = nn.Parameter(torch.randn(max_length + 1, dim) * 0.02)  # one for the mask behind the context
        self.embedding_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    @classmethod
    def cloze(cls, settings: Settings) -> Cloze:
        return Cloze(mask=settings.mask, last=settings.last)

    def embed(self, items: Tensor, sequences: PackedSequences) -> Tensor:
        x = self.embedding_norm(items + F.embedding(sequences.position, self.positions))
        embedded: Tensor = self.dropout(x, sequences)
        return embedded

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(sequences.with_own_prompts(x, number), sequences)
        states: Tensor = self.norm(F.gelu(self.out(x)))
        return states

    @property
    def prompted_layers(self) -> int:
        return len(self.layers)

    def adaptable(self) -> tuple[str, ...]:
        return tuple(f"layers.{n}.{branch}" for n in range(len(self.layers)) for branch in ("out", "down"))

    def last_layer(self) -> tuple[str, ...]:
        return f"layers.{len(self.layers) - 1}.", "out.", "norm."

    def flops(self, rows: int, squared: int) -> float:
        linear = 2 * (4 + 2 * self.settings.ffn_multiple) * self.dim**2 * rows
        return self.settings.layers * (linear + 4 * self.dim * squared) + 2 * self.dim**2 * rows

    def step_flops(self, rows: int, squared: int) -> float:
        # The fused attention computes its scores again for the gradients.
        return super().step_flops(rows, squared) + self.settings.layers * 2 * self.dim * squared


class Layer(nn.Module):
    """Multi-head attention, then the feed-forward network, each with dropout, a residual and a norm (eq. 3 to 5)."""

    def __init__(self, settings: Settings, dim: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = settings.heads, settings.attention_dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, settings.ffn_multiple * dim)
        self.down = nn.Linear(settings.ffn_multiple * dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        """[R, D] → [R, D]; a row sees all rows of its sequence."""
        dropout = self.attention_dropout if self.training else 0.0
        mixed = self.out(attend(self.qkv(x), sequences, self.heads, dropout, causal=False))
        x = self.attention_norm(x + self.dropout(mixed, sequences))
        hidden = self.down(F.gelu(self.up(x)))
        normed: Tensor = self.feed_forward_norm(x + self.dropout(hidden, sequences))
        return normed
