"""LoRA (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, §4.1).

Shapes: R rows.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

from torch import Tensor, nn

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError, require_positive
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.base import TuningMethod, is_attached, replace_modules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Low-rank updates of a frozen backbone's weights."""

    rank: int = 8
    """Rank r of an update."""
    alpha: float = 8.0
    """An update is scaled by alpha / r."""

    def __post_init__(self) -> None:
        require_positive(self, "lora", "rank", "alpha")


class LoRA(TuningMethod):
    """An update B·A beside each projection of attention and feed-forward networks; all else of the backbone is frozen.

    The backbone names them (``Backbone.projections``): by default all its linear layers, of NextItNet its convolutions.
    """

    section = Settings
    trains_items = False
    starts_as_pretrained = True

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.settings = config.part("lora", Settings)

    def attach(self, model: SequentialModel) -> None:
        super().attach(model)
        names = model.backbone.projections()
        if not names:
            raise UserError(f"backbone {self.config.model.backbone} has no linear layers: tune by another method")
        replace_modules(model.backbone, names, lambda layer: Updated(layer, self.settings.rank, self.settings.alpha))

    def trainable(self, name: str) -> bool:
        return is_attached(name) or ".update." in name


class Updated(nn.Module):
    """layer(x) + α/r · B(A(x)), with B 0 at the start: [R, …] → [R, outputs]."""

    def __init__(self, layer: nn.Module, rank: int, alpha: float) -> None:
        super().__init__()
        self.layer, self.scale = layer, alpha / rank
        up = nn.Linear(rank, len(layer.get_parameter("weight")), bias=False)
        nn.init.zeros_(up.weight)
        self.update = nn.ModuleDict({"a": _narrowed(layer, rank), "b": up})

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        """``others`` are the layer's own."""
        updated: Tensor = self.layer(x, *others) + self.scale * self.update["b"](self.update["a"](x, *others))
        return updated


def _narrowed(layer: nn.Module, rank: int) -> nn.Module:
    """The same layer, linear or a convolution, with ``rank`` outputs, no bias and weights of its own."""
    narrowed, weight = copy.deepcopy(layer), layer.get_parameter("weight")
    narrowed.register_parameter("weight", nn.Parameter(weight.new_empty(rank, *weight.shape[1:])))
    narrowed.register_parameter("bias", None)
    nn.init.kaiming_uniform_(narrowed.get_parameter("weight"), a=math.sqrt(5))  # as torch's layers begin
    return narrowed
