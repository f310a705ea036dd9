"""Model patches (Yuan et al., "Parameter-Efficient Transfer from Sequential Behaviors for User Modeling and
Recommendation" (PeterRec), SIGIR 2020, §3.3).

Shapes: R rows, D width.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from torch import Tensor, nn

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError, require_positive
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.adapter import Bottleneck
from ppr_dist.tuning.base import TuningMethod, is_attached, replace_modules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Patches in a frozen backbone."""

    insertion: Literal["serial", "parallel"] = "serial"
    """Behind a layer, from what it gives; or beside it, from what it is given."""
    bottleneck: int | None = None
    """Width that a patch reduces to; null = a quarter of ``model.dim``, as in the paper."""

    def __post_init__(self) -> None:
        if self.bottleneck is not None:
            require_positive(self, "patch", "bottleneck")


class Patch(TuningMethod):
    """Two patches per block: at both convolutions of NextItNet, at attention's and the feed-forward network's output
    projection of a transformer; all else of the backbone is frozen.
    """

    section = Settings
    trains_items = False
    starts_as_pretrained = True

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.settings = config.part("patch", Settings)

    def attach(self, model: SequentialModel) -> None:
        super().attach(model)
        names = model.backbone.patchable()
        if not names:
            raise UserError(f"backbone {self.config.model.backbone} has no place for patches: tune by another method")
        bottleneck = self.settings.bottleneck or max(1, model.dim // 4)
        parallel = self.settings.insertion == "parallel"
        replace_modules(model.backbone, names, lambda layer: Patched(layer, model.dim, bottleneck, parallel=parallel))

    def trainable(self, name: str) -> bool:
        return is_attached(name) or ".patch." in name


class Patched(nn.Module):
    """A layer and its patch, 0 at the start: layer(x) + Up(gelu(Down(layer(x)))), or layer(x) + Up(gelu(Down(x)))."""

    def __init__(self, layer: nn.Module, dim: int, bottleneck: int, *, parallel: bool) -> None:
        super().__init__()
        self.layer, self.parallel = layer, parallel
        weight = getattr(layer, "weight", None)
        given = weight.shape[1] if isinstance(weight, Tensor) and weight.dim() > 1 else dim
        self.patch = Bottleneck(given if parallel else dim, bottleneck, dim)

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        """[R, …] → [R, D]; ``others`` are the layer's own."""
        out = self.layer(x, *others)
        # The layer's residual is added behind this once; in parallel too, nothing of x itself is added here.
        patched: Tensor = out + self.patch(x if self.parallel else out)
        return patched
