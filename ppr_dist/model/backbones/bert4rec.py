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
from ppr_dist.model.backbones.transformer import Transformer
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


class BERT4Rec(Transformer):
    """Post-norm layers with GELU and learnt positions (§3.3 to 3.5); behind them the projection of eq. 7, normalised as
    in the authors' code. Scores are dot products, so the bias of each item that eq. 7 adds is left out.
    """

    section = Settings
    causal = False

    def __init__(self, settings: Settings, dim: int, max_length: int, dropout: float) -> None:
        super().__init__("bert4rec", settings, dim, max_length, dropout, pre_norm=False)
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
        states: Tensor = self.norm(F.gelu(self.out(self.through_layers(x, sequences))))
        return states

    def last_layer(self) -> tuple[str, ...]:
        return *super().last_layer(), "out."

    def flops(self, rows: int, squared: int) -> float:
        return super().flops(rows, squared) + 2 * self.dim**2 * rows
