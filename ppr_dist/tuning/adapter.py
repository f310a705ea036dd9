"""Adapters: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, §2.1; and Pfeiffer et al.,
"AdapterFusion", EACL 2021, §3.

Shapes: R rows, D width.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError, require_positive
from ppr_dist.model.backbones.base import Backbone
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.base import TuningMethod, is_attached, replace_modules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Adapters in a frozen backbone."""

    bottleneck: int = 16
    """Width that an adapter reduces to."""

    def __post_init__(self) -> None:
        require_positive(self, "adapter", "bottleneck")


class Adapter(TuningMethod):
    """An adapter behind attention and feed-forward network of each layer; all else of the backbone is frozen."""

    section = Settings
    section_name = "adapter"
    trains_items = False
    starts_as_pretrained = True

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.bottleneck = config.part("adapter", Settings).bottleneck

    def attach(self, model: SequentialModel) -> None:
        super().attach(model)
        names = self.places(model.backbone)
        if not names:
            raise UserError(f"backbone {self.config.model.backbone} has no place for adapters: tune by another method")
        replace_modules(model.backbone, names, lambda branch: Adapted(branch, model.dim, self.bottleneck))

    def places(self, backbone: Backbone) -> tuple[str, ...]:
        """Behind which submodules."""
        return backbone.adaptable()

    def trainable(self, name: str) -> bool:
        return is_attached(name) or ".adapter." in name


class Pfeiffer(Adapter):
    """One adapter per layer, behind its feed-forward network: behind the last of the places that a layer has."""

    def places(self, backbone: Backbone) -> tuple[str, ...]:
        return tuple({name.rpartition(".")[0]: name for name in backbone.adaptable()}.values())


class Adapted(nn.Module):
    """``branch``, then x + W2·gelu(W1·x + b1) + b2, with W2 and b2 0 at the start: [R, D] → [R, D]."""

    def __init__(self, branch: nn.Module, dim: int, bottleneck: int) -> None:
        super().__init__()
        self.branch = branch
        self.adapter = Bottleneck(dim, bottleneck, dim)

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        added: Tensor = out + self.adapter(out)
        return added


class Bottleneck(nn.Module):
    """Up(gelu(Down(x))), 0 at the start: [R, width] → [R, dim]."""

    def __init__(self, width: int, bottleneck: int, dim: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(F.gelu(self.down(x)))
        return out
