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
    laid_out = _LayOut.apply(qkv, rectangles, heads)
    mixed = [_attend(laid_out[3 * i : 3 * i + 3], rectangle.rows) for i, rectangle in enumerate(rectangles)]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def _attend(laid_out: tuple[Tensor, ...], rows: Tensor | None) -> Tensor:
    query, key, value = laid_out
    # No dropout on attention weights: it would rule the fused kernels out on CPU.
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return _by_token(mixed) if rows is None else take(_by_token(mixed), rows)


def _by_token(x: Tensor) -> Tensor:
    """[S, H, L, D / H] → [S·L, D]."""
    return x.transpose(1, 2).flatten(2).flatten(0, 1)


class _LayOut(torch.autograd.Function):
    """[R, 3·D] → query, key and value [S, H, L, D / H] of each rectangle in turn.

    The gradient of all is written once, where it belongs: stacking, joining and reordering it took a tenth of a step.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, rectangles: list[Rectangle], heads: int) -> tuple[Tensor, ...]:
        ctx.rectangles, ctx.shape = rectangles, qkv.shape
        laid_out: list[Tensor] = []
        parts = qkv.split([rectangle.tokens for rectangle in rectangles])
        for part, rectangle in zip(parts, rectangles, strict=True):
            if rectangle.rows is not None:
                part = _put(part, rectangle.rows, rectangle.sequences * rectangle.width)
            shape = rectangle.sequences, rectangle.width, 3, heads, qkv.shape[1] // (3 * heads)
            laid_out += part.view(shape).permute(2, 0, 3, 1, 4).unbind()
        return tuple(laid_out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].new_empty(ctx.shape)
        parts = grad.split([rectangle.tokens for rectangle in ctx.rectangles])
        for i, (part, rectangle) in enumerate(zip(parts, ctx.rectangles, strict=True)):
            for into, of_one in zip(part.chunk(3, dim=1), grads[3 * i : 3 * i + 3], strict=True):
                by_token = _by_token(of_one)
                into.copy_(by_token if rectangle.rows is None else by_token.index_select(0, rectangle.rows))
        return grad, None, None
