"""NextItNet's states against sums written out, for each sequence by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ppr_dist.data.stream.padding import bucket_by_length
from ppr_dist.errors import UserError
from ppr_dist.model.backbones.nextitnet import NextItNet, Settings
from ppr_dist.model.packed_sequences import PackedSequences

DIM = 4


def normed(norm: nn.LayerNorm, row: Tensor) -> Tensor:
    centred = row - row.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def convolved(convolution: nn.Conv1d, x: Tensor, dilation: int) -> Tensor:
    """Row t of x [L, D]: Σ_j W_j x[t − (kernel − 1 − j) · dilation] + b, over the rows that there are."""
    kernel = convolution.weight.shape[2]
    rows = []
    for t in range(len(x)):
        row = convolution.bias.clone()  # type: ignore[union-attr]
        for j in range(kernel):
            if (at := t - (kernel - 1 - j) * dilation) >= 0:
                row = row + convolution.weight[:, :, j] @ x[at]
        rows.append(row)
    return torch.stack(rows)


def written_out(model: NextItNet, x: Tensor, dilations: list[tuple[int, int]]) -> Tensor:
    for block, (first, second) in zip(model.blocks, dilations, strict=True):
        hidden = torch.stack([normed(block.norm, row).relu() for row in convolved(block.first, x, first)])
        x = x + torch.stack([normed(block.out[0], row).relu() for row in convolved(block.second, hidden, second)])
    return x


def made(**settings: int) -> NextItNet:
    torch.manual_seed(0)
    model = NextItNet(Settings(**settings), dim=DIM, max_length=20, dropout=0.3).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def packed(lengths: list[int], prompts: int = 0) -> PackedSequences:
    counts = torch.tensor(lengths, dtype=torch.int64)
    return PackedSequences(counts, bucket_by_length(counts.numpy(), bucket_tokens=4), prompt_rows=prompts)


@pytest.mark.parametrize("prompts", [0, 2])
@pytest.mark.parametrize(
    ("settings", "dilations"),
    [
        ({}, [(1, 2), (4, 8), (1, 2), (4, 8)]),
        ({"blocks": 3, "cycle": 3}, [(1, 2), (4, 8), (16, 32)]),
        ({"blocks": 1, "kernel": 2}, [(1, 2)]),
    ],
)
def test_states_are_those_of_each_sequence_alone(
    settings: dict[str, int], dilations: list[tuple[int, int]], prompts: int
) -> None:
    model, lengths = made(**settings), [18, 5, 3, 3, 1]
    sequences = packed(lengths, prompts)
    assert len(sequences.buckets) > 1
    x = torch.randn(sequences.rows, DIM, dtype=torch.float64)
    rows = [n + prompts for n in lengths]
    for alone, together in zip(x.split(rows), model(x, sequences).split(rows), strict=True):
        torch.testing.assert_close(together, written_out(model, alone, dilations))


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_without_rows_every_parameter_still_has_a_gradient(lengths: list[int]) -> None:
    model = made()
    states = model(torch.zeros(0, DIM, dtype=torch.float64), packed(lengths))
    assert states.shape == (0, DIM)
    states.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("setting", ["blocks", "cycle", "kernel"])
def test_settings_of_nothing_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=f"nextitnet.{setting} must be above 0"):
        Settings(**{setting: 0})
