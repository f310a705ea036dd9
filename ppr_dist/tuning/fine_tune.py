"""Fine-tuning: no prompt, everything is trainable; the profile encoder alone knows profiles (PPR §4.2)."""

from __future__ import annotations

from ppr_dist.tuning.base import TuningMethod


class FineTune(TuningMethod):
    starts_as_pretrained = True
    continues = ("fine-tune",)
