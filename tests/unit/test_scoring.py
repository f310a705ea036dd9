"""The k best of a row by blocks, against sorting the whole row."""

from __future__ import annotations

import pytest
import torch

from ppr_dist.scoring import _best


@pytest.mark.parametrize("columns", [1, 7, 300, 4096, 5001, 16_384])
@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("levels", [None, 3], ids=["distinct", "many ties"])
def test_best_is_the_top_of_the_row(columns: int, k: int, levels: int | None) -> None:
    generator = torch.Generator().manual_seed(columns + k)
    scores = torch.randn(5, columns, generator=generator)
    if levels:
        scores = torch.randint(levels, (5, columns), generator=generator).float()
    scores[1, ::2] = -torch.inf
    scores[2] = -torch.inf
    scores[3, columns - 1] = 99.0  # behind the last whole block
    want = scores.topk(min(k, columns), dim=1).values
    value, index = _best(scores, k)
    assert torch.equal(value, want)
    assert torch.equal(scores.gather(1, index), value)
    assert all(len(row.unique()) == len(row) for row in index)


def test_a_score_that_is_not_a_number_comes_first_as_in_torch() -> None:
    scores = torch.randn(1, 16_384)
    scores[0, 777] = torch.nan
    assert _best(scores, 10)[1][0, 0] == 777
