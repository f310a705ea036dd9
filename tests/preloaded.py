"""What the server that ranks and commands are forked from imports once, so that each of them starts in a blink."""

import contextlib
import gc
import importlib

import pytest  # noqa: F401  (each test module that holds a rank's function)

from ppr_dist.data.stream.loader import PRELOAD
from ppr_dist.errors import UserError
from ppr_dist.parallel import dense

for name in PRELOAD:
    importlib.import_module(name)
for command in ("prepare", "pretrain", "tune", "evaluate", "recommend"):
    with contextlib.suppress(UserError):  # which options are required, once the parser is made
        importlib.import_module(f"ppr_dist.{command}").main([])

# DeepSpeed runs a compiler to see what it could build (0.4 s), and imports late: from ZeRO 1 on torch's compiler (3 s).
dense._deepspeed()
for late in ("module_inject.auto_ep_layer", "runtime.zero.muon.muon_optimizer"):
    importlib.import_module(f"deepspeed.{late}")
import tests.multirank.models  # noqa: E402, F401

# deepspeed.initialize collects garbage: among the objects of all these modules 0.3 s, and a copy of their pages.
gc.collect()
gc.freeze()
