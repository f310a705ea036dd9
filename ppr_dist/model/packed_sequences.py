"""Sequences laid one after another without padding, and padded where a layer needs them so.

Shapes: S sequences, T clicks of all of them, n prompt rows of each, R = T + S·n rows, D width; a bucket has s sequences
padded to L rows.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.batch import Bucket


class PackedSequences:
    """Where each sequence's rows lie among the R rows of a packed tensor: first its prompt, then its clicks."""

    def __init__(
        self,
        lengths: Tensor,
        buckets: tuple[Bucket, ...],
        *,
        prompt_rows: int = 0,
        times: Tensor | None = None,
        asked_at: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> None:
        """``lengths``: clicks of each sequence, int64 [S]; ``buckets`` without prompts; times as in ``History``;
        ``keys``: a random number of each sequence for this step, int64 [S], where dropout is to draw.
        """
        self.lengths, self.prompt_rows = lengths, prompt_rows
        self.times, self.asked_at = times, asked_at
        """When each click was, and when the one after it was, where the model may know: int64 [T] each, or None."""
        self.clicks = sum(bucket.tokens for bucket in buckets)
        self.rows = self.clicks + len(lengths) * prompt_rows
        counts = lengths + prompt_rows
        self.start = counts.cumsum(0) - counts
        """First row of each sequence, int64 [S]."""
        self.sequence, self.position = _sequence_and_position(lengths, self.clicks)
        """Sequence of each click, and its number there from 0, int64 [T] each. A prompt has no position."""
        self.buckets = tuple(
            Bucket(b.sequences, b.tokens + b.sequences * prompt_rows, b.width + prompt_rows) for b in buckets
        )
        """Prompts included."""
        self.keys, self._draws = keys, itertools.count()
        self.prompts_inside: list[Tensor] = []
        """Prompt rows of the backbone's layers from the second on, [S·n, D] each, where each layer has its own."""

    def next_draw(self) -> int:
        """Number the draws that are made by these keys: one for each dropout layer of the model."""
        return next(self._draws)

    def keys_of(self, x: Tensor) -> Tensor:
        """A random number of each row of ``x``, int64: of all rows [R, …], or of the clicks [T, …]."""
        return self._row_keys if len(x) == self.rows else self._row_keys[self.click_rows]

    @functools.cached_property
    def _row_keys(self) -> Tensor:
        assert self.keys is not None, "dropout while training draws by the keys of the batch's users"
        sequence, nth = self._every_row
        return mixed(self.keys[sequence] + nth)

    def insert_prompts(self, clicks: Tensor, prompts: Tensor) -> Tensor:
        """Put each sequence's prompts [S·n, D] before its clicks [T, D]: [R, D]."""
        each = torch.arange(self.prompt_rows, device=clicks.device)
        rows = torch.cat([(self.start[:, None] + each).flatten(), self.click_rows])
        return scatter_rows(torch.cat([prompts, clicks]), rows, self.rows)

    def with_own_prompts(self, x: Tensor, layer: int) -> Tensor:
        """Rows [R, D] as they enter ``layer``: where it has prompts of its own, with these in place of the last's."""
        if not layer or layer > len(self.prompts_inside):
            return x
        return self.insert_prompts(gather_rows(x, self.click_rows), self.prompts_inside[layer - 1])

    @functools.cached_property
    def click_rows(self) -> Tensor:
        """Row of each click, int64 [T]."""
        return self.start[self.sequence] + self.prompt_rows + self.position

    @functools.cached_property
    def _every_row(self) -> tuple[Tensor, Tensor]:
        """Sequence of each row, and its number there from 0, int64 [R] each."""
        if not self.prompt_rows:
            return self.sequence, self.position
        return _sequence_and_position(self.lengths + self.prompt_rows, self.rows)

    @functools.cached_property
    def slots(self) -> list[Tensor | None]:
        """Where the rows of each bucket lie among its s·L padded slots; None: all its sequences are of one length."""
        sequence, nth = self._every_row
        slots: list[Tensor | None] = []
        first = row = 0
        for bucket in self.buckets:
            part = slice(row, row + bucket.tokens)
            full = bucket.tokens == bucket.sequences * bucket.width
            slots.append(None if full else (sequence[part] - first) * bucket.width + nth[part])
            first, row = first + bucket.sequences, row + bucket.tokens
        return slots

    def pad(self, x: Tensor) -> list[Tensor]:
        """[R, …] → [s, L, …] of each bucket; zeros behind the end of each sequence."""
        padded = []
        parts = x.split([bucket.tokens for bucket in self.buckets])
        for part, bucket, slots in zip(parts, self.buckets, self.slots, strict=True):
            part = part if slots is None else scatter_rows(part, slots, bucket.sequences * bucket.width)
            padded.append(part.unflatten(0, (bucket.sequences, bucket.width)))
        return padded

    def unpad(self, padded: list[Tensor]) -> Tensor:
        """[s, L, …] of each bucket → [R, …]."""
        parts = [x.flatten(0, 1) for x in padded]
        rows = [x if slots is None else gather_rows(x, slots) for x, slots in zip(parts, self.slots, strict=True)]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def after(self, states: Tensor, sequence: Tensor, context: Tensor) -> Tensor:
        """Rows of ``states`` [R, D] after the first ``context`` clicks of ``sequence``, int64 [P] each: [P, D].

        No pair twice. After nothing, no prompt either, it is 0.
        """
        last = self.start[sequence] + self.prompt_rows + context
        if self.prompt_rows:
            return gather_rows(states, last - 1)
        # A row of zeros before the first, whose gradient nobody takes.
        return gather_rows(F.pad(states, (0, 0, 1, 0)), torch.where(context > 0, last, 0))


def _sequence_and_position(lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Which sequence each of ``total`` rows belongs to, and its number in it; total is known, so nothing waits."""
    everyone = torch.arange(len(lengths), device=lengths.device)
    sequence = torch.repeat_interleave(everyone, lengths, output_size=total)
    start = lengths.cumsum(0) - lengths
    return sequence, torch.arange(total, device=lengths.device) - start[sequence]


def mixed(x: Tensor) -> Tensor:
    """Random numbers of numbers, int64 to int64, one to one: SplitMix64's, as :mod:`ppr_dist.data.counter_random`."""
    x = (x + 1) * (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifted right, zeros coming in."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def scatter_rows(x: Tensor, rows: Tensor, size: int) -> Tensor:
    """Zeros [size, …] with x[i] at rows[i]; rows int64 [n], no two the same."""
    scattered: Tensor = _ScatterRows.apply(x, rows, size)
    return scattered


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows] for rows int64 [n], no two the same: gradients are put in place, not added up, at a fraction of the cost.

    Row 0 may stand there several times where its gradient does not matter.
    """
    gathered: Tensor = _GatherRows.apply(x, rows)
    return gathered


def scattered(x: Tensor, rows: Tensor, size: int) -> Tensor:
    """:func:`scatter_rows` without gradient."""
    return x.new_zeros(size, *x.shape[1:]).index_copy_(0, rows, x)


class _ScatterRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(rows)
        return scattered(x, rows, size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return grad.index_select(0, rows), None, None


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size = len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return scattered(grad, rows, ctx.size), None
