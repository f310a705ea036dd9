"""Last layer: of the pre-trained model, its last layer alone is trainable, and what stands behind it."""

from __future__ import annotations

from ppr_dist.errors import UserError
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.base import TuningMethod, is_attached


class LastLayer(TuningMethod):
    """Items and the layers before the last are frozen; the profile encoder is new."""

    trains_items = False
    starts_as_pretrained = True

    def attach(self, model: SequentialModel) -> None:
        super().attach(model)
        self.last = tuple(f"backbone.{prefix}" for prefix in model.backbone.last_layer())
        if not self.last:
            raise UserError(f"backbone {self.config.model.backbone} has no last layer: tune by another method")

    def trainable(self, name: str) -> bool:
        return is_attached(name) or name.startswith(self.last)
