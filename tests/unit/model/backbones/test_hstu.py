"""HSTU against its equations written out, pair after pair."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.data.stream.padding import bucket_by_length
from ppr_dist.model.backbones.hstu import HSTU, TIME_BUCKETS, Layer, Settings
from ppr_dist.model.packed_sequences import PackedSequences

DIM, HEADS, LONGEST = 4, 2, 9


def written_out(layer: Layer, x: Tensor, prompts: int, times: Tensor | None, asked_at: Tensor | None) -> Tensor:
    """One layer for one sequence [L, D]: eq. 1 to 3 of the paper, with the bias of its §3.2."""
    u, v, q, k = F.silu(layer.norm(x) @ layer.uvqk.weight.T).chunk(4, dim=1)
    mixed = torch.zeros_like(x)
    width = DIM // HEADS
    for head in range(HEADS):
        columns = slice(head * width, (head + 1) * width)
        for i in range(len(x)):
            for j in range(i + 1):
                score = q[i, columns] @ k[j, columns]
                if i >= prompts and j >= prompts:  # both are clicks
                    score = score + layer.position_bias[i - j]
                    if times is not None and asked_at is not None and layer.time_bias is not None:
                        gap = max(1, abs(int(asked_at[i - prompts]) - int(times[j - prompts])))
                        score = score + layer.time_bias[min(TIME_BUCKETS - 1, int(math.log(gap) / 0.301))]
                mixed[i, columns] += F.silu(score) / LONGEST * v[j, columns]
    out: Tensor = x + layer.out(u * layer.attention_norm(mixed))
    return out


@pytest.mark.parametrize("prompts", [0, 2])
@pytest.mark.parametrize("timed", ["no times", "times", "target's time"])
def test_states_are_those_of_the_equations(prompts: int, timed: str) -> None:
    torch.manual_seed(0)
    model = HSTU(Settings(layers=2, heads=HEADS), dim=DIM, max_length=LONGEST, dropout=0.3).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    lengths = torch.tensor([5, 3, 3, 1])
    times = torch.tensor([0, 1, 7, 400, 9 * 10**8, 5, 5, 6, 10, 2000, 10**6, 3]) if timed != "no times" else None
    asked_at = times + torch.arange(12) * 50 if timed == "target's time" and times is not None else None
    buckets = bucket_by_length(lengths.numpy(), bucket_tokens=4)
    sequences = PackedSequences(lengths, buckets, prompt_rows=prompts, times=times, asked_at=asked_at)
    x = torch.randn(sequences.rows, DIM)
    states = model(x, sequences)
    first = 0
    for alone, together, n in zip(
        x.split((lengths + prompts).tolist()), states.split((lengths + prompts).tolist()), lengths.tolist(), strict=True
    ):
        own = None if times is None else times[first : first + n]
        asked = own if asked_at is None else asked_at[first : first + n]
        expected = alone
        for layer in model.layers:
            expected = written_out(layer, expected, prompts, own, asked)  # type: ignore[arg-type]
        torch.testing.assert_close(together, expected)
        first += n
