"""What items are called: each differently, and by training clicks alone."""

from __future__ import annotations

import numpy as np
import pytest

from ppr_dist.p5.item_codes import (
    collaborative_codes,
    digits,
    numbers_by_first_click,
    random_numbers,
    spectral_vectors,
)


def test_numbers_follow_the_first_click_and_what_has_none_comes_last() -> None:
    numbers = numbers_by_first_click(np.array([5, 2, 5, 0, 2, 7]), 9, seed=0)
    assert numbers[[5, 2, 0, 7]].tolist() == [0, 1, 2, 3]
    assert sorted(numbers[[1, 3, 4, 6, 8]]) == [4, 5, 6, 7, 8]
    assert sorted(random_numbers(9, seed=0)) == list(range(9))


@pytest.mark.parametrize(("items", "values", "levels"), [(1, 2, 1), (8, 2, 3), (9, 2, 4), (12_101, 256, 2)])
def test_digits_spell_numbers(items: int, values: int, levels: int) -> None:
    codes = digits(np.arange(items), values)
    assert codes.shape == (items, levels)
    assert 0 <= codes.min() <= codes.max() < values
    assert (codes @ values ** np.arange(levels)[::-1]).tolist() == list(range(items))


def clicks_in_groups() -> tuple[np.ndarray, np.ndarray]:
    """200 users with 8 clicks each, of 60 items that are in 6 groups; items 60 to 63 have no click."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 8)
    return users, users % 6 + 6 * rng.integers(0, 10, len(users))


def test_collaborative_codes_are_those_of_groups_that_the_same_users_click() -> None:
    users, clicks = clicks_in_groups()
    codes = collaborative_codes(users, clicks, 64, 8, seed=0)
    assert codes.shape == (64, 2)
    assert len({tuple(code) for code in codes.tolist()}) == 64
    of_cluster = [set(np.arange(60)[codes[:60, 0] == code] % 6) for code in np.unique(codes[:60, 0])]
    assert all(len(groups) == 1 for groups in of_cluster)
    np.testing.assert_array_equal(codes, collaborative_codes(users, clicks, 64, 8, seed=0))


def test_spectral_vectors_are_rows_of_the_normalised_graph() -> None:
    users, clicks = clicks_in_groups()
    matrix = np.zeros((200, 64))
    matrix[users, clicks] = 1
    with np.errstate(divide="ignore", invalid="ignore"):
        matrix = np.nan_to_num(matrix / np.sqrt(matrix.sum(1, keepdims=True) * matrix.sum(0)))
        graph = matrix.T @ matrix
        want = np.nan_to_num(graph / np.linalg.norm(graph, axis=1, keepdims=True))
    vectors = spectral_vectors(users, clicks, 64, seed=0)  # as wide as there are items: nothing is lost
    np.testing.assert_allclose(vectors @ vectors.T, want @ want.T, atol=1e-5)
