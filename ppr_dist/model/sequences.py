"""Sequences laid one after another without padding, and attention over them.

Shapes: R tokens of all sequences, D width, H heads; a group has S sequences padded to L for attention alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def place(x: Tensor, rows: Tensor, size: int) -> Tensor:
    """Zeros [size, …] with x[i] at rows[i]; rows int64 [n], no two the same."""
    placed: Tensor = _Place.apply(x, rows, size)
    return placed


def take(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows] for rows int64 [n], no two the same: gradients are placed, not added up, which costs a fraction."""
    taken: Tensor = _Take.apply(x, rows)
    return taken


def _put(x: Tensor, rows: Tensor, size: int) -> Tensor:
    return x.new_zeros(size, *x.shape[1:]).index_copy_(0, rows, x)


class _Place(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(rows)
        return _put(x, rows, size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return grad.index_select(0, rows), None, None


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size = len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return _put(grad, rows, ctx.size), None


@dataclasses.dataclass(frozen=True)
class Rectangle:
    """Neighbouring sequences whose attention runs in one call."""

    sequences: int
    width: int
    """L, the longest of them."""
    tokens: int
    rows: Tensor | None
    """Where each token lies among the S·L of the rectangle, int64 [tokens]; None: all are of one length."""


def attend(qkv: Tensor, rectangles: list[Rectangle], heads: int) -> Tensor:
    """Causal self-attention of each sequence, queries, keys and values side by side: [R, 3·D] → [R, D].

    Padding goes after the real tokens, so the causal mask is the only mask needed.
    """
    parts = qkv.split([rectangle.tokens for rectangle in rectangles])
    mixed = [_attend(part, rectangle, heads) for part, rectangle in zip(parts, rectangles, strict=True)]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def _attend(qkv: Tensor, rectangle: Rectangle, heads: int) -> Tensor:
    sequences, width, rows, dim = rectangle.sequences, rectangle.width, rectangle.rows, qkv.shape[1] // 3
    if rows is not None:
        qkv = place(qkv, rows, sequences * width)
    query, key, value = qkv.view(sequences, width, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    # No dropout on attention weights: it would rule the fused kernels out on CPU.
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    mixed = mixed.transpose(1, 2).reshape(sequences * width, dim)
    return mixed if rows is None else take(mixed, rows)
