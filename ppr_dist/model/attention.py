"""Self-attention over packed sequences, causal or not.

Shapes: R rows of all sequences, D width, H heads; a bucket has s sequences padded to L rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.model.packed_sequences import PackedSequences, gather_rows, scattered


def attend(qkv: Tensor, sequences: PackedSequences, heads: int, dropout: float = 0.0, *, causal: bool = True) -> Tensor:
    """Self-attention of each sequence, queries, keys and values side by side: [R, 3·D] → [R, D].

    ``dropout``: probability on attention weights. ``causal``: a row sees itself and what stands before it. Padding goes
    behind the rows that are real, so the causal mask is the only mask needed; without it padding is masked.
    """
    padded = _PadHeads.apply(qkv, sequences, heads)
    real = [None] * len(sequences.slots) if causal else _real_rows(sequences)
    mixed = [
        _attend(padded[3 * i : 3 * i + 3], slots, dropout, causal, mask)
        for i, (slots, mask) in enumerate(zip(sequences.slots, real, strict=True))
    ]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def _real_rows(sequences: PackedSequences) -> list[Tensor | None]:
    """Of each bucket which rows are no padding, bool [s, 1, 1, L]; None: all."""
    lengths = (sequences.lengths + sequences.prompt_rows).split([bucket.sequences for bucket in sequences.buckets])
    return [
        # Of an empty sequence too one row is seen: a softmax over nothing is no number.
        None
        if slots is None
        else (torch.arange(bucket.width, device=count.device) < count.clamp(min=1)[:, None])[:, None, None]
        for slots, bucket, count in zip(sequences.slots, sequences.buckets, lengths, strict=True)
    ]


def _attend(
    padded: tuple[Tensor, ...], slots: Tensor | None, dropout: float, causal: bool, mask: Tensor | None
) -> Tensor:
    query, key, value = padded
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, dropout_p=dropout)
    return _by_row(mixed) if slots is None else gather_rows(_by_row(mixed), slots)


def _by_row(x: Tensor) -> Tensor:
    """[s, H, L, D / H] → [s·L, D]."""
    return x.transpose(1, 2).flatten(2).flatten(0, 1)


class _PadHeads(torch.autograd.Function):
    """[R, 3·D] → query, key and value [s, H, L, D / H] of each bucket in turn.

    The gradient of all is written once, where it belongs: stacking, joining and reordering it took a tenth of a step.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, sequences: PackedSequences, heads: int) -> tuple[Tensor, ...]:
        ctx.sequences, ctx.shape = sequences, qkv.shape
        padded: list[Tensor] = []
        parts = qkv.split([bucket.tokens for bucket in sequences.buckets])
        for part, bucket, slots in zip(parts, sequences.buckets, sequences.slots, strict=True):
            if slots is not None:
                part = scattered(part, slots, bucket.sequences * bucket.width)
            shape = bucket.sequences, bucket.width, 3, heads, qkv.shape[1] // (3 * heads)
            padded += part.view(shape).permute(2, 0, 3, 1, 4).unbind()
        return tuple(padded)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].new_empty(ctx.shape)
        parts = grad.split([bucket.tokens for bucket in ctx.sequences.buckets])
        for i, (part, slots) in enumerate(zip(parts, ctx.sequences.slots, strict=True)):
            for into, of_one in zip(part.chunk(3, dim=1), grads[3 * i : 3 * i + 3], strict=True):
                by_row = _by_row(of_one)
                into.copy_(by_row if slots is None else by_row.index_select(0, slots))
        return grad, None, None
