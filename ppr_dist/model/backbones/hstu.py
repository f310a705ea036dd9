"""HSTU (Zhai et al., "Actions Speak Louder than Words", ICML 2024).

Shapes: R rows, D width, H heads of width d; a bucket has s sequences padded to L rows.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.errors import UserError, require_positive
from ppr_dist.model.backbones.base import Backbone
from ppr_dist.model.dropout import Dropout
from ppr_dist.model.packed_sequences import PackedSequences, scattered

TIME_BUCKETS = 64
"""Of the logarithm of a time between two clicks: bucket b begins at e^(0.301·b) seconds; the last holds the rest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """HSTU: pointwise-aggregated attention with relative position and time."""

    layers: int = 2
    """Layers."""
    heads: int = 2
    """Attention heads; divides ``model.dim``."""
    times: bool = True
    """Whether attention knows the time between clicks, where the data has times."""

    def __post_init__(self) -> None:
        require_positive(self, "hstu", "layers", "heads")


class HSTU(Backbone):
    """Layers of pointwise attention: SiLU in place of softmax, no normalisation over keys (§3.2, eq. 1 to 3)."""

    section = Settings
    reads_times = True

    def __init__(self, settings: Settings, dim: int, max_length: int, dropout: float) -> None:
        super().__init__(settings, dim, max_length, dropout)
        if dim % settings.heads:
            raise UserError(f"model.dim {dim} is not divisible by hstu.heads {settings.heads}")
        self.settings, self.dim, self.max_length = settings, dim, max_length
        self.layers = nn.ModuleList(Layer(settings, dim, max_length, dropout) for _ in range(settings.layers))
        self.positions = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        self.dropout = Dropout(dropout)

    def embed(self, items: Tensor, sequences: PackedSequences) -> Tensor:
        x: Tensor = items * math.sqrt(self.dim) + F.embedding(sequences.position, self.positions)
        return self.dropout(x, sequences)

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        gaps = [Gaps(*parts) for parts in self._padded_places(sequences)]
        for number, layer in enumerate(self.layers):
            x = layer(sequences.with_own_prompts(x, number), sequences, gaps)
        return x

    def _padded_places(self, sequences: PackedSequences) -> list[tuple[Tensor, Tensor | None, Tensor | None]]:
        """Of each bucket: number of each row's click (−1: prompt or padding), its time, and when is asked, [s, L]."""

        def padded(of_clicks: Tensor) -> list[Tensor]:
            return sequences.pad(scattered(of_clicks, sequences.click_rows, sequences.rows))

        numbers = [number - 1 for number in padded(sequences.position + 1)]
        times = sequences.times if self.settings.times else None
        if times is None:
            return [(number, None, None) for number in numbers]
        asked_at = times if sequences.asked_at is None else sequences.asked_at
        return list(zip(numbers, padded(times), padded(asked_at), strict=True))

    @property
    def prompted_layers(self) -> int:
        return len(self.layers)

    def adaptable(self) -> tuple[str, ...]:
        return tuple(f"layers.{n}.out" for n in range(len(self.layers)))

    def last_layer(self) -> tuple[str, ...]:
        return (f"layers.{len(self.layers) - 1}.",)

    def flops(self, rows: int, squared: int) -> float:
        return self.settings.layers * (2.0 * 5 * self.dim**2 * rows + 4 * self.dim * squared)


class Gaps:
    """Between every two rows of a bucket's sequences: clicks and time, and whether the later may see the earlier."""

    def __init__(self, number: Tensor, time: Tensor | None, asked_at: Tensor | None) -> None:
        """``number``: of each row's click, −1 for prompts and padding, int64 [s, L]; times in seconds, int64 [s, L]."""
        length = number.shape[1]
        self.causal = torch.ones(length, length, dtype=torch.bool, device=number.device).tril()
        click = number >= 0
        self.both = click[:, :, None] & click[:, None, :] & self.causal
        """Where both rows are clicks: a prompt has neither position nor time."""
        row = torch.arange(length, device=number.device)
        self.rows = (row[:, None] - row).clamp(min=0)
        """From the earlier to the later; between clicks as many clicks, [L, L]."""
        self.time = None
        if time is not None and asked_at is not None:
            seconds = (asked_at[:, :, None] - time[:, None, :]).abs().clamp(min=1)
            self.time = (seconds.float().log() / 0.301).long().clamp(max=TIME_BUCKETS - 1)
            """Bucket of the time from the earlier to when is asked after the later, [s, L, L]."""


class Layer(nn.Module):
    """Pointwise projection, spatial aggregation, pointwise transformation (eq. 1 to 3)."""

    def __init__(self, settings: Settings, dim: int, max_length: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.max_length = settings.heads, max_length
        self.norm, self.attention_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.uvqk = nn.Linear(dim, 4 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.position_bias = nn.Parameter(torch.randn(max_length) * 0.02)
        self.time_bias = nn.Parameter(torch.randn(TIME_BUCKETS) * 0.02) if settings.times else None
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, sequences: PackedSequences, gaps: list[Gaps]) -> Tensor:
        """[R, D] → [R, D]."""
        u, vqk = F.silu(self.uvqk(self.norm(x))).tensor_split([x.shape[1]], dim=1)
        mixed = [self.aggregate(*pair) for pair in zip(sequences.pad(vqk), gaps, strict=True)]
        out: Tensor = self.out(u * self.attention_norm(sequences.unpad(mixed)))
        return x + self.dropout(out, sequences)

    def aggregate(self, vqk: Tensor, gaps: Gaps) -> Tensor:
        """Values, queries and keys side by side [s, L, 3·D] → [s, L, D]."""
        value, query, key = vqk.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3)
        bias = F.embedding(gaps.rows.clamp(max=self.max_length - 1), self.position_bias[:, None])
        if self.time_bias is not None and gaps.time is not None:
            bias = bias + F.embedding(gaps.time, self.time_bias[:, None])
        elif self.time_bias is not None:
            bias = bias + 0 * self.time_bias.sum()  # no times: still a gradient, 0 on any number of ranks
        scores = scores + (bias.squeeze(-1) * gaps.both)[:, None]
        weights = F.silu(scores) / self.max_length * gaps.causal
        return (weights @ value).transpose(1, 2).flatten(2)
