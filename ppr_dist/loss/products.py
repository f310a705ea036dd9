"""Matrix products of the losses, in the precision that was asked for.

What is reduced is the input of a product alone: sums are float32, as in the tensor cores of a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "tf32", "bfloat16"]


def mm(a: Tensor, b: Tensor, precision: Precision) -> Tensor:
    """a [m, k] · b [k, n] → [m, n], of the type of ``a``."""
    if precision == "bfloat16":
        return _bfloat16_mm(a, b)
    with _tf32(precision):
        return torch.mm(a, b)


def addmm(x: Tensor, a: Tensor, b: Tensor, precision: Precision, *, alpha: float = 1.0) -> Tensor:
    """x + alpha · a [m, k] · b [k, n] → [m, n]; x [m, n] or what broadcasts to it."""
    if precision == "bfloat16":
        return _bfloat16_mm(a, b).mul_(alpha).add_(x)
    with _tf32(precision):
        return torch.addmm(x, a, b, alpha=alpha)


def addmm_(x: Tensor, a: Tensor, b: Tensor, precision: Precision) -> None:
    """Add a [m, k] · b [k, n] to x [m, n]."""
    if precision == "bfloat16":
        x.add_(_bfloat16_mm(a, b))
    else:
        with _tf32(precision):
            x.addmm_(a, b)


def _bfloat16_mm(a: Tensor, b: Tensor) -> Tensor:
    left, right = a.bfloat16(), b.bfloat16()
    if a.device.type == "cuda":
        return torch.mm(left, right, out_dtype=torch.float32).to(a.dtype)
    # A product of two bfloat16 is exact in float32, so this is the same sum; torch has no such kernel for a CPU.
    return torch.mm(left.float(), right.float()).to(a.dtype)


@contextmanager
def _tf32(precision: Precision) -> Iterator[None]:
    if precision != "tf32":
        yield
        return
    settings = torch.backends.cuda.matmul
    before, settings.fp32_precision = settings.fp32_precision, "tf32"
    try:
        yield
    finally:
        settings.fp32_precision = before
