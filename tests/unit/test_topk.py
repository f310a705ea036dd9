"""The running top k against torch.topk over everything at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ppr_dist.topk import BLOCK, RunningTopK, hits_above

USERS = 12


def in_tiles(scores: Tensor, k: int, width: int) -> tuple[Tensor, Tensor]:
    running = RunningTopK(len(scores), k, torch.device("cpu"))
    tile = torch.empty(width, len(scores))  # laid out by item and written anew each time, as score_catalogue does
    for first in range(0, scores.shape[1], width):
        part = scores[:, first : first + width]
        running.add(first, tile[: part.shape[1]].copy_(part.T).T)
    return running.best()


def check(scores: Tensor, k: int, width: int) -> None:
    items, best = in_tiles(scores, k, width)
    wanted = scores.topk(min(k, scores.shape[1])).values
    torch.testing.assert_close(best[:, : wanted.shape[1]], wanted, rtol=0, atol=0, equal_nan=True)
    assert (best[:, wanted.shape[1] :] == -torch.inf).all()
    for row, mine in enumerate(items):
        real = mine[best[row] != -torch.inf]
        assert len(set(real.tolist())) == len(real)
        torch.testing.assert_close(scores[row, real], best[row, : len(real)], rtol=0, atol=0, equal_nan=True)


def normal(seed: int, columns: int) -> Tensor:
    return torch.randn(USERS, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("columns", [50, 8 * BLOCK, 100 * BLOCK, 100 * BLOCK + 17])
def test_it_is_torch_topk(k: int, columns: int) -> None:
    check(normal(k, columns), k, 16 * BLOCK)


def test_hits_are_the_scores_above_the_floor() -> None:
    scores = normal(0, 64 * BLOCK)
    floor = scores.topk(10).values[:, -1]
    found = hits_above(scores, floor)
    assert found is not None
    user, column, value = found
    assert torch.equal(value, scores[user, column])
    assert torch.equal(torch.bincount(user, minlength=USERS), torch.full((USERS,), 9))
    assert len(torch.unique(user * scores.shape[1] + column)) == len(user)


def test_where_hits_are_everywhere_or_blocks_do_not_fit_sorting_is_left_to_do_it() -> None:
    scores = normal(0, 64 * BLOCK)
    assert hits_above(scores, torch.full((USERS,), -torch.inf)) is None
    assert hits_above(scores[:, 1:], torch.full((USERS,), 1.0)) is None


@pytest.mark.parametrize("k", [10, 100])
def test_ties(k: int) -> None:
    check(normal(1, 60 * BLOCK).round(), k, 8 * BLOCK)
    check(torch.zeros(USERS, 60 * BLOCK), k, 8 * BLOCK)


@pytest.mark.parametrize("k", [10, 100])
def test_excluded_scores_never_come_back(k: int) -> None:
    scores = normal(2, 60 * BLOCK)
    scores[0] = -torch.inf
    scores[1, 3:] = -torch.inf
    scores[2, ::2] = -torch.inf
    check(scores, k, 8 * BLOCK)


@pytest.mark.parametrize("order", [1.0, -1.0])
def test_rising_and_falling_scores(order: float) -> None:
    check(normal(3, 60 * BLOCK) + order * torch.arange(60 * BLOCK) / BLOCK, 10, 8 * BLOCK)


def test_one_user_with_many_more_hits_than_others() -> None:
    scores = normal(5, 60 * BLOCK)
    scores[7] = torch.arange(60 * BLOCK) + 10.0
    check(scores, 3, 4 * BLOCK)


def test_what_is_not_a_number_counts_as_greatest_and_infinity_next() -> None:
    scores = normal(4, 60 * BLOCK)
    scores[:, 7::400] = torch.nan
    scores[3] = torch.nan
    scores[:, 1000] = torch.inf
    check(scores, 20, 8 * BLOCK)


def test_of_no_users_nothing() -> None:
    items, best = in_tiles(torch.empty(0, 8 * BLOCK), 10, 4 * BLOCK)
    assert items.shape == best.shape == (0, 10)
