"""Norms and biases: of the backbone its layer norms and bias terms alone (Ben Zaken et al., "BitFit", ACL 2022; the
norms are trained in PeterRec and by Houlsby et al. too).
"""

from __future__ import annotations

from torch import nn

from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.base import TuningMethod, is_attached


class NormsAndBiases(TuningMethod):
    """Items and weight matrices are frozen; the profile encoder is new."""

    trains_items = False
    starts_as_pretrained = True

    def attach(self, model: SequentialModel) -> None:
        super().attach(model)
        self.own = {
            f"backbone.{name}.{parameter}"
            for name, module in model.backbone.named_modules()
            for parameter, _ in module.named_parameters(recurse=False)
            if isinstance(module, nn.LayerNorm) or parameter.startswith("bias")
        }

    def trainable(self, name: str) -> bool:
        return is_attached(name) or name in self.own
