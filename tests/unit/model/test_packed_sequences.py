"""Packed sequences against loops over sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ppr_dist.batch import Bucket
from ppr_dist.data.stream.padding import bucket_by_length
from ppr_dist.model.packed_sequences import PackedSequences

LENGTHS = [5, 5, 4, 2, 2, 0, 0]
WIDTH = 3


def packed(prompt_rows: int, bucket_tokens: int = 6) -> PackedSequences:
    buckets: tuple[Bucket, ...] = bucket_by_length(np.array(LENGTHS), bucket_tokens)
    assert len(buckets) > 1
    return PackedSequences(torch.tensor(LENGTHS), buckets, prompt_rows=prompt_rows)


def rows_of(sequences: PackedSequences) -> Tensor:
    """Rows that are all different."""
    return torch.arange(1.0, sequences.rows * WIDTH + 1).view(sequences.rows, WIDTH)


@pytest.mark.parametrize("prompt_rows", [0, 1, 2])
def test_clicks_have_positions_and_prompts_stand_before_them(prompt_rows: int) -> None:
    sequences = packed(prompt_rows)
    assert sequences.sequence.tolist() == [s for s, length in enumerate(LENGTHS) for _ in range(length)]
    assert sequences.position.tolist() == [n for length in LENGTHS for n in range(length)]
    clicks = torch.arange(1.0, sum(LENGTHS) * WIDTH + 1).view(-1, WIDTH)
    prompts = -torch.arange(1.0, len(LENGTHS) * prompt_rows * WIDTH + 1).view(-1, WIDTH)
    want, first = [], 0
    for number, length in enumerate(LENGTHS):
        want += [*prompts[number * prompt_rows : (number + 1) * prompt_rows], *clicks[first : first + length]]
        first += length
    assert torch.equal(sequences.insert_prompts(clicks, prompts), torch.stack(want))


@pytest.mark.parametrize("prompt_rows", [0, 2])
def test_padding_goes_behind_and_comes_off_again(prompt_rows: int) -> None:
    sequences = packed(prompt_rows)
    x = rows_of(sequences).requires_grad_()
    padded = sequences.pad(x)
    found = [sequence for part in padded for sequence in part]
    for sequence, rows in zip(found, x.split([length + prompt_rows for length in LENGTHS]), strict=True):
        assert torch.equal(sequence[: len(rows)], rows)
        assert not sequence[len(rows) :].any()
    back = sequences.unpad(padded)
    assert torch.equal(back, x)
    weight = torch.randn(back.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((back * weight).sum(), x)
    assert torch.equal(gradient, weight)


@pytest.mark.parametrize("prompt_rows", [0, 2])
def test_the_state_after_a_context_is_that_of_its_last_row(prompt_rows: int) -> None:
    sequences = packed(prompt_rows)
    states = rows_of(sequences).requires_grad_()
    asked = [(s, context) for s, length in enumerate(LENGTHS) for context in range(length + 1)][::-1]
    sequence, context = torch.tensor(asked).T
    after = sequences.after(states, sequence, context)
    want = []
    for s, n in asked:
        first = sum(LENGTHS[:s]) + s * prompt_rows
        last = first + prompt_rows + n - 1
        want.append(states[last] if last >= first else torch.zeros(WIDTH))
    assert torch.equal(after, torch.stack(want))
    gradients = [torch.autograd.grad((each * each.detach()).sum(), states)[0] for each in (after, torch.stack(want))]
    assert torch.equal(*gradients)
