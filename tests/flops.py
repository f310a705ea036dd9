"""Counting FLOPs of products, also of those that torch's counter does not know."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, sdpa_backward_flop, sdpa_flop


def counter() -> FlopCounterMode:
    """A context in which FLOPs are counted: ``get_total_flops``."""
    aten: Any = torch.ops.aten
    # The product in place, and attention on a CPU.
    more = {
        aten.addmm_: _formula(addmm_flop),
        aten._scaled_dot_product_flash_attention_for_cpu: _formula(sdpa_flop),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _formula(sdpa_backward_flop),
    }
    return FlopCounterMode(display=False, custom_mapping=more)


def _formula(of: Any) -> Any:
    """One of torch's own formulas, for an operator that it has none for."""
    same: Any = functools.partial(of)
    same._get_raw = True  # it takes shapes out of tensors itself
    return same
