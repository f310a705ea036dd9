"""Dropout that is cheap on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zero elements with probability ``p`` while training and scale the rest by 1 / (1 − p); any shape.

    On a CPU torch draws a random number for each element, one after another: a sixth of a training step (measured).
    Here one 64-bit number serves four, so ``p`` is rounded to a multiple of 2^-16. Elsewhere this is torch's dropout.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not self.training or self.p == 0.0:
            return F.dropout(x, self.p, self.training)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        # int64 from end to end of its range, seen as four int16 each.
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * keep.to(x.dtype).mul_(2**16 / (2**16 - dropped))
