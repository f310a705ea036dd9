"""DSSM (Huang et al., CIKM 2013) as MoRec has it: two towers, that of the user an MLP over the mean of its items.

The item's tower is the item encoder.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Tensor, nn

from ppr_dist.errors import require_positive
from ppr_dist.model.backbones.base import Backbone
from ppr_dist.model.dropout import Dropout
from ppr_dist.model.packed_sequences import PackedSequences


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """DSSM: the mean of the clicks through an MLP; their order does not matter."""

    layers: int = 2
    """Linear layers, with GELU between two of them."""
    hidden_multiple: int = 2
    """Units between two layers, in multiples of ``model.dim``."""

    def __post_init__(self) -> None:
        require_positive(self, "dssm", "layers", "hidden_multiple")


class DSSM(Backbone):
    section = Settings

    def __init__(self, settings: Settings, dim: int, max_length: int, dropout: float) -> None:
        super().__init__(settings, dim, max_length, dropout)
        hidden = settings.hidden_multiple * dim
        widths = [dim, *[hidden] * (settings.layers - 1), dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.dropout = Dropout(dropout)

    def embed(self, items: Tensor, sequences: PackedSequences) -> Tensor:
        return self.dropout(items, sequences)

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        x = sequences.unpad([self._mean_so_far(padded) for padded in sequences.pad(x)])
        for number, layer in enumerate(self.layers):
            x = layer(nn.functional.gelu(x) if number else x)
        return x

    def _mean_so_far(self, padded: Tensor) -> Tensor:
        """[s, L, D] → [s, L, D]: of each row and all before it, a prompt's among them."""
        return padded.cumsum(1) / torch.arange(1, padded.shape[1] + 1, device=padded.device)[:, None]

    def last_layer(self) -> tuple[str, ...]:
        return (f"layers.{len(self.layers) - 1}.",)

    def flops(self, rows: int, squared: int) -> float:
        return 2.0 * rows * sum(p.numel() for p in self.layers.parameters() if p.dim() > 1)
