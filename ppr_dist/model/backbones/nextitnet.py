"""NextItNet (Yuan et al., "A Simple Convolutional Generative Network for Next Item Recommendation", WSDM 2019).

Shapes: R rows, D width; a bucket has s sequences padded to L rows.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.errors import require_positive
from ppr_dist.model.backbones.base import Backbone
from ppr_dist.model.dropout import Dropout
from ppr_dist.model.packed_sequences import PackedSequences


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """NextItNet: dilated causal convolutions."""

    blocks: int = 4
    """Residual blocks of two convolutions; each convolution has twice the dilation of the one before."""
    cycle: int = 2
    """Blocks after which dilations begin at 1 again: 2 for 1, 2, 4, 8, 1, 2, 4, 8, …"""
    kernel: int = 3
    """Rows that a convolution sees, its own among them."""

    def __post_init__(self) -> None:
        require_positive(self, "nextitnet", "blocks", "cycle", "kernel")


class NextItNet(Backbone):
    """Residual blocks of convolutions over item vectors, which need no positions.

    A state sees 1 + (kernel − 1) · (sum of all dilations) rows, and a prompt only where it is among them: 61 rows as
    the settings are by default.
    """

    section = Settings

    def __init__(self, settings: Settings, dim: int, max_length: int, dropout: float) -> None:
        super().__init__(settings, dim, max_length, dropout)
        self.settings, self.dim = settings, dim
        dilations = [4 ** (n % settings.cycle) for n in range(settings.blocks)]
        self.blocks = nn.ModuleList(Block(dim, settings.kernel, dilation, dropout) for dilation in dilations)
        self.dropout = Dropout(dropout)

    def embed(self, items: Tensor, sequences: PackedSequences) -> Tensor:
        x: Tensor = self.dropout(items, sequences)
        return x

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        for block in self.blocks:
            x = block(x, sequences)
        return x

    def adaptable(self) -> tuple[str, ...]:
        return tuple(f"blocks.{n}.out" for n in range(len(self.blocks)))

    def patchable(self) -> tuple[str, ...]:
        return tuple(f"blocks.{n}.{layer}" for n in range(len(self.blocks)) for layer in ("first", "second"))

    def projections(self) -> tuple[str, ...]:
        return self.patchable()

    def last_layer(self) -> tuple[str, ...]:
        return (f"blocks.{len(self.blocks) - 1}.",)

    def flops(self, rows: int, squared: int) -> float:
        return 2.0 * self.settings.blocks * 2 * self.settings.kernel * self.dim**2 * rows


class Block(nn.Module):
    """Two convolutions, layer norm and ReLU behind each, and a residual (the paper's figure 3b)."""

    def __init__(self, dim: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = CausalConv1d(dim, dim, kernel, dilation=dilation)
        self.norm = nn.LayerNorm(dim)
        self.second = CausalConv1d(dim, dim, kernel, dilation=2 * dilation)
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.ReLU())
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        """[R, D] → [R, D]."""
        hidden = F.relu(self.norm(self.first(x, sequences)))
        mixed: Tensor = x + self.dropout(self.out(self.second(hidden, sequences)), sequences)
        return mixed


class CausalConv1d(nn.Conv1d):
    """A convolution over a row and what stands before it in its sequence, zeros before the first."""

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:  # type: ignore[override]
        """[R, D] → [R, D]."""
        before = self.dilation[0] * (self.kernel_size[0] - 1)
        # Padding stands behind the rows that are real, so they do not know of it.
        padded = [F.pad(each.mT, (before, 0)) for each in sequences.pad(x)]
        return sequences.unpad([F.conv1d(each, self.weight, self.bias, dilation=self.dilation).mT for each in padded])
