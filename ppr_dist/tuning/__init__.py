"""Tuning methods: one file each, found here by name."""

from ppr_dist.tuning.adapter import Adapter
from ppr_dist.tuning.base import TuningMethod
from ppr_dist.tuning.fine_tune import FineTune
from ppr_dist.tuning.last_layer import LastLayer
from ppr_dist.tuning.ppr import PPRFull, PPRLight

TUNING_METHODS: dict[str, type[TuningMethod]] = {
    "ppr-light": PPRLight,
    "ppr-full": PPRFull,
    "fine-tune": FineTune,
    "adapter": Adapter,
    "last-layer": LastLayer,
}
