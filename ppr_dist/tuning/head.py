"""Head alone: profile encoder, profile tables and the objectives' heads; the pre-trained model is frozen."""

from __future__ import annotations

from ppr_dist.tuning.base import TuningMethod, is_attached


class Head(TuningMethod):
    trains_items = False
    starts_as_pretrained = True

    def trainable(self, name: str) -> bool:
        return is_attached(name)
