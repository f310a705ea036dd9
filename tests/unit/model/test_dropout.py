"""Dropout against its definition."""

from __future__ import annotations

import pytest
import torch

from ppr_dist.model.dropout import Dropout


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_drops_a_share_p_independently_and_scales_the_rest(p: float) -> None:
    torch.manual_seed(0)
    draws = Dropout(p)(torch.ones(2000, 255))
    assert draws.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=2e-4)
    dropped = (draws == 0).double()
    error = (p * (1 - p) / draws.numel()) ** 0.5
    assert abs(dropped.mean() - p) < 4 * error + 2**-16
    # Neighbours come from one word and rows from other words: neither knows of the other.
    for shift, dim in [(1, 1), (2, 1), (3, 1), (4, 1), (1, 0)]:
        other = dropped.roll(shift, dim)
        assert abs((dropped * other).mean() - p * p) < 5 * error


def test_gradient_passes_where_the_element_passed() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3, requires_grad=True)
    y = Dropout(0.4)(x)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(grad * x, y)
    assert (grad == 0).any()


def test_follows_torchs_seed_and_draws_anew_each_time() -> None:
    x, dropout = torch.ones(100), Dropout(0.5)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


def test_does_nothing_in_evaluation_or_at_zero() -> None:
    x = torch.randn(10)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 1), (2, 0, 4)])
def test_keeps_any_shape_and_dtype(shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        y = Dropout(0.3)(torch.ones(shape, dtype=dtype))
        assert (y.shape, y.dtype) == (torch.Size(shape), dtype)
