"""Dropout against its definition, and as a function of who is asked about."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ppr_dist.batch import Bucket
from ppr_dist.model.dropout import Dropout, drop
from ppr_dist.model.packed_sequences import PackedSequences


def _keys(count: int, seed: int = 0) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=torch.Generator().manual_seed(seed))


def _sequences(lengths: list[int], keys: Tensor, prompt_rows: int = 0) -> PackedSequences:
    bucket = Bucket(len(lengths), sum(lengths), max(lengths))
    return PackedSequences(torch.tensor(lengths), (bucket,), prompt_rows=prompt_rows, keys=keys)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("keys", [_keys(2000), torch.arange(2000) * 2**20], ids=["random", "regular"])
def test_drops_a_share_p_independently_and_scales_the_rest(p: float, keys: Tensor) -> None:
    sequences = _sequences([1] * 2000, keys)
    draws = Dropout(p)(torch.ones(2000, 255), sequences)
    assert draws.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=2e-4)
    dropped = (draws == 0).double()
    error = (p * (1 - p) / draws.numel()) ** 0.5
    assert abs(dropped.mean() - p) < 4 * error + 2**-16
    # Neighbours come from one word, rows from one column's number, layers from one row's key: none knows of another.
    for shift, dim in [(1, 1), (2, 1), (3, 1), (4, 1), (1, 0), (2, 0)]:
        assert abs((dropped * dropped.roll(shift, dim)).mean() - p * p) < 5 * error
    next_layer = (Dropout(p)(torch.ones(2000, 255), sequences) == 0).double()
    assert abs((dropped * next_layer).mean() - p * p) < 5 * error
    # Each row and each column loses its share too.
    for dim, n in [(0, 2000), (1, 255)]:
        z = (dropped.mean(dim) - p) / (p * (1 - p) / n) ** 0.5
        assert abs(z.std() - 1) < 0.2
        assert z.abs().max() < 6


def test_gradient_passes_where_the_element_passed() -> None:
    x = torch.randn(7, 15, requires_grad=True)
    y = drop(x, _keys(7), 0, 0.4)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(grad * x, y)
    assert (grad == 0).any()


@pytest.mark.parametrize("prompt_rows", [0, 2])
def test_a_users_draws_do_not_depend_on_who_else_is_there(prompt_rows: int) -> None:
    """Layers before the prompts come in and layers behind, as the backbones have them."""
    lengths, keys = [5, 4, 4, 1, 0], _keys(5)

    def draws(rows: slice) -> tuple[list[Tensor], list[Tensor]]:
        part = lengths[rows]
        sequences, layer = _sequences(part, keys[rows], prompt_rows), Dropout(0.5)
        counts = [length + prompt_rows for length in part]
        before = layer(torch.ones(sum(part), 8), sequences).split(part)
        return list(before), list(layer(torch.ones(sum(counts), 8), sequences).split(counts))

    alone = [draws(slice(0, 2)), draws(slice(2, 5))]
    for whole, parts in zip(draws(slice(0, 5)), zip(*alone, strict=True), strict=True):
        for one, other in zip(whole, [*parts[0], *parts[1]], strict=True):
            assert torch.equal(one, other)


def test_another_key_draws_anew() -> None:
    x = torch.ones(1, 100)
    assert torch.equal(drop(x, _keys(1), 3, 0.5), drop(x, _keys(1), 3, 0.5))
    assert not torch.equal(drop(x, _keys(1), 3, 0.5), drop(x, _keys(1, seed=1), 3, 0.5))
    assert not torch.equal(drop(x, _keys(1), 3, 0.5), drop(x, _keys(1), 4, 0.5))


def test_does_nothing_in_evaluation_or_at_zero() -> None:
    x, sequences = torch.randn(3, 10), _sequences([2, 1], _keys(2))
    assert torch.equal(Dropout(0.5).eval()(x, sequences), x)
    assert torch.equal(Dropout(0.0)(x, sequences), x)


@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 1), (2, 0), (4, 6)])
def test_keeps_any_shape_and_dtype(shape: tuple[int, int]) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        y = drop(torch.ones(shape, dtype=dtype), _keys(shape[0]), 0, 0.3)
        assert (y.shape, y.dtype) == (torch.Size(shape), dtype)


def test_a_reduced_precision_does_not_round_the_scale() -> None:
    x = torch.linspace(1, 2, 40_000).bfloat16()[:, None].expand(40_000, 64)  # products round up as often as down
    y = drop(x, _keys(40_000), 0, 0.1)
    assert float(y.double().mean() / x.double().mean()) == pytest.approx(1, abs=8e-4)
