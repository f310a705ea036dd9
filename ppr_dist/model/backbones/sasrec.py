"""SASRec (Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.errors import require_positive, require_probability
from ppr_dist.model.backbones.transformer import Transformer
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


class SASRec(Transformer):
    """Causal transformer layers (§III-B) with learned positions; a prompt has none."""

    section = Settings

    def __init__(self, settings: Settings, dim: int, max_length: int, dropout: float) -> None:
        super().__init__("sasrec", settings, dim, max_length, dropout, pre_norm=settings.norm == "pre")
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
        states: Tensor = self.norm(self.through_layers(x, sequences))
        return states
