"""GRU4Rec (Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016)."""

from __future__ import annotations

import dataclasses
import itertools

from torch import Tensor, nn

from ppr_dist.errors import require_positive
from ppr_dist.model.backbones.base import Backbone
from ppr_dist.model.dropout import Dropout
from ppr_dist.model.packed_sequences import PackedSequences


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """GRU4Rec: gated recurrent units."""

    layers: int = 1
    """Stacked GRU layers."""
    hidden: int = 128
    """Units of each; a linear layer makes states of ``model.dim`` of them."""

    def __post_init__(self) -> None:
        require_positive(self, "gru4rec", "layers", "hidden")


class GRU4Rec(Backbone):
    """GRU layers over item vectors; the order of clicks needs no positions."""

    section = Settings

    def __init__(self, settings: Settings, dim: int, max_length: int, dropout: float) -> None:
        super().__init__(settings, dim, max_length, dropout)
        self.settings, self.dim = settings, dim
        widths = [dim, *[settings.hidden] * settings.layers]
        self.layers = nn.ModuleList(nn.GRU(*pair, batch_first=True) for pair in itertools.pairwise(widths))
        self.out = nn.Linear(settings.hidden, dim)
        self.dropout = Dropout(dropout)

    def embed(self, items: Tensor, sequences: PackedSequences) -> Tensor:
        x: Tensor = self.dropout(items, sequences)
        return x

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        for layer in self.layers:
            # Padding stands behind the rows that are real, so their states do not know of it.
            x = self.dropout(sequences.unpad([layer(bucket)[0] for bucket in sequences.pad(x)]), sequences)
        states: Tensor = self.out(x)
        return states

    def adaptable(self) -> tuple[str, ...]:
        return ("out",)

    def last_layer(self) -> tuple[str, ...]:
        return f"layers.{len(self.layers) - 1}.", "out."

    def flops(self, rows: int, squared: int) -> float:
        hidden = self.settings.hidden
        gates = 3 * hidden * (self.dim + hidden + (self.settings.layers - 1) * 2 * hidden)
        return 2.0 * rows * (gates + hidden * self.dim)
