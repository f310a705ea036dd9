"""An MLP over the mean of the clicks so far."""

from __future__ import annotations

import torch

from ppr_dist.data.stream.padding import bucket_by_length
from ppr_dist.model.backbones.dssm import DSSM, Settings
from ppr_dist.model.packed_sequences import PackedSequences


def test_a_state_is_the_mlp_of_the_mean_of_the_clicks_so_far() -> None:
    torch.manual_seed(0)
    made, lengths = DSSM(Settings(layers=2), 6, 10, 0.0).eval(), torch.tensor([4, 2, 1])
    x = torch.randn(7, 6)
    packed = PackedSequences(lengths, bucket_by_length(lengths.numpy()))
    states = made(made.embed(x, packed), packed)
    first, second = made.layers
    row = 0
    for length in lengths.tolist():
        for last in range(row, row + length):
            mean = x[row : last + 1].mean(0)
            torch.testing.assert_close(states[last], second(torch.nn.functional.gelu(first(mean))))
        row += length


def test_the_order_of_clicks_does_not_matter() -> None:
    torch.manual_seed(0)
    made, lengths = DSSM(Settings(), 6, 10, 0.0).eval(), torch.tensor([5])
    x = torch.randn(5, 6)
    packed = PackedSequences(lengths, bucket_by_length(lengths.numpy()))
    torch.testing.assert_close(made(x.flip(0), packed)[-1], made(x, packed)[-1])
