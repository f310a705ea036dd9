"""Adapters (Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, §2.1)."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError, require_positive
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.base import TuningMethod, is_attached


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
    trains_items = False
    starts_as_pretrained = True

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.bottleneck = config.part("adapter", Settings).bottleneck

    def attach(self, model: SequentialModel) -> None:
        super().attach(model)
        names = model.backbone.adaptable()
        if not names:
            raise UserError(f"backbone {self.config.model.backbone} has no place for adapters: tune by another method")
        for name in names:
            parent, _, child = name.rpartition(".")
            branch = getattr(model.backbone.get_submodule(parent), child)
            setattr(model.backbone.get_submodule(parent), child, Adapted(branch, model.dim, self.bottleneck))

    def trainable(self, name: str) -> bool:
        return is_attached(name) or ".adapter." in name


class Adapted(nn.Module):
    """``branch``, then x + W2·gelu(W1·x + b1) + b2, with W2 and b2 0 at the start: [R, D] → [R, D]."""

    def __init__(self, branch: nn.Module, dim: int, bottleneck: int) -> None:
        super().__init__()
        self.branch = branch
        up = nn.Linear(bottleneck, dim)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.adapter = nn.ModuleDict({"down": nn.Linear(dim, bottleneck), "up": up})

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        added: Tensor = out + self.adapter["up"](F.gelu(self.adapter["down"](out)))
        return added
