"""Frozen vectors of items (of text, of images, of any source), projected: the two-stage form of MoRec.

Yuan et al., "Where to Go Next for Recommender Systems? ID- vs. Modality-based Recommender Models Revisited", SIGIR
2023. Several modalities, of which an item may have some, are added up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ppr_dist.data.manifest import ItemData
from ppr_dist.errors import UserError
from ppr_dist.model.item_encoders.base import ItemEncoder, known_rows, small_


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Features: stored vectors of items, projected."""

    names: list[str] | None = None
    """Which of the data's item features; null = all of them. Each has a projection of its own, and they are added."""
    hidden: int = 0
    """Units of a GELU layer between two linear ones; 0 = one linear layer."""
    norm: bool = True
    """Whether each stored vector is first normalised to mean 0 and variance 1, with a learned scale (LayerNorm)."""
    bias: bool = True
    """Whether linear layers add a learned constant."""

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise UserError(f"features.hidden must be 0 or more, not {self.hidden}")


class Features(ItemEncoder):
    section = Settings

    @classmethod
    def reads(cls, settings: Settings, known: Mapping[str, ItemData]) -> tuple[str, ...]:
        there = [name for name, data in known.items() if data.kind == "features"]
        for name in there if settings.names is None else settings.names:
            if name not in there:
                has = ", ".join(there) or "none"
                raise UserError(f"features.names {name!r}: the data has {has}; prepare it with --item-features.{name}")
        if not there:
            raise UserError(
                "model.item_encoders features: the data has none; prepare it with --item-features.NAME FILE"
            )
        return tuple(there if settings.names is None else settings.names)

    def __init__(self, settings: Settings, dim: int, known: Mapping[str, ItemData]) -> None:
        super().__init__(settings, dim, known)
        self.names = tuple(known)
        self.projections = nn.ModuleList(_projection(settings, data.columns, dim) for data in known.values())

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        of_each = [p(rows[n]) * known_rows(rows[n]) for n, p in zip(self.names, self.projections, strict=True)]
        return torch.stack(of_each).sum(0) if len(of_each) > 1 else of_each[0]

    def flops(self) -> float:
        return 2.0 * sum(p.numel() for p in self.parameters() if p.dim() > 1)


def _projection(settings: Settings, columns: int, dim: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.LayerNorm(columns)] if settings.norm else []
    if settings.hidden:
        layers += [nn.Linear(columns, settings.hidden, bias=settings.bias), nn.GELU()]
    last = nn.Linear(settings.hidden or columns, dim, bias=settings.bias)
    return nn.Sequential(*layers, small_(last))
