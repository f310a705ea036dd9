"""Tuning methods: one file each, found here by name."""

from ppr_dist.tuning.adapter import Adapter, Pfeiffer
from ppr_dist.tuning.base import TuningMethod
from ppr_dist.tuning.constant_prompt import ConstantPrompt
from ppr_dist.tuning.continual import Continual
from ppr_dist.tuning.fine_tune import FineTune
from ppr_dist.tuning.head import Head
from ppr_dist.tuning.last_layer import LastLayer
from ppr_dist.tuning.lora import LoRA
from ppr_dist.tuning.melu import MeLU
from ppr_dist.tuning.minet import MiNet
from ppr_dist.tuning.norms_and_biases import NormsAndBiases
from ppr_dist.tuning.patch import Patch
from ppr_dist.tuning.ppr import PPRFull, PPRLight

TUNING_METHODS: dict[str, type[TuningMethod]] = {
    "ppr-light": PPRLight,
    "ppr-full": PPRFull,
    "fine-tune": FineTune,
    "adapter": Adapter,
    "pfeiffer": Pfeiffer,
    "patch": Patch,
    "lora": LoRA,
    "last-layer": LastLayer,
    "norms-and-biases": NormsAndBiases,
    "head": Head,
    "melu": MeLU,
    "minet": MiNet,
    "constant-prompt": ConstantPrompt,
    "continual": Continual,
}
