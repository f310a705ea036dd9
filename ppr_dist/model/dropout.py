"""Dropout whose draws are a function of (seed, epoch, user, row, layer): the same on any number of ranks.

Shapes: n rows, D width.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from ppr_dist.data.counter_random import bits
from ppr_dist.model.packed_sequences import PackedSequences

_MULTIPLIER = 0xBF58476D1CE4E5B9 - 2**64  # of SplitMix64, as a signed integer


class Dropout(nn.Module):
    """Zero elements with probability ``p`` while training and scale the rest by 1 / (1 − p).

    ``p`` is rounded to a multiple of 2^-16: one 64-bit number serves four elements, which on a CPU takes a third of the
    time of torch's own dropout (measured).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        """[R, D] → [R, D], or [T, D] → [T, D] before prompts are inserted."""
        if not self.training or self.p == 0.0:
            return x
        return drop(x, sequences.keys_of(x), sequences.next_draw(), self.p)


def drop(x: Tensor, keys: Tensor, draw: int, p: float) -> Tensor:
    """Drop elements of ``x`` [n, D] by the random numbers ``keys``, int64 [n].

    ``draw`` numbers the draws made by the same keys. An element's number is its row's key times its column's, mixed.
    """
    words = torch.outer(keys, _columns(draw, -(-x.shape[1] // 4), x.device))
    words ^= (words >> 32) & 0xFFFFFFFF
    words *= _MULTIPLIER
    halves = words.view(torch.int32).unflatten(1, (-1, 2))
    halves[..., 0] ^= halves[..., 1]
    dropped = min(round(p * 2**16), 2**16 - 1)
    keep = words.view(torch.int16)[:, : x.shape[1]] >= dropped - 2**15
    # In float32 at least: bfloat16 would round the scale, the same way for every element.
    scaled = keep.to(torch.promote_types(x.dtype, torch.float32)).mul_(2**16 / (2**16 - dropped))
    return (x * scaled).to(x.dtype)


@functools.cache
def _columns(draw: int, count: int, device: torch.device) -> Tensor:
    """Odd random numbers, int64 [count]: a product with one loses nothing."""
    return torch.from_numpy(bits(draw, np.arange(count)).view(np.int64) | 1).to(device)
