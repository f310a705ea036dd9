"""Counter-based randomness: known answers, ranges, and that every key word counts."""

from __future__ import annotations

import numpy as np
import pytest

from ppr_dist.data.counter_random import bits, integers, permutation, uniform


def test_without_counters_it_is_the_first_output_of_splitmix64() -> None:
    # Vigna's reference splitmix64.c, seed 0.
    assert bits(0).tolist() == [0xE220A8397B1DCDAF]


def test_is_a_pure_function_of_each_element() -> None:
    together = bits(7, np.arange(100)[:, None], np.arange(5))
    assert together.shape == (100, 5)
    assert together[42, 3] == bits(7, 42, 3)[0]


def test_seed_value_and_order_of_counters_all_matter() -> None:
    values = [bits(*key)[0] for key in [(1, 2, 3), (2, 1, 3), (1, 3, 2), (1, 2), (1, 2, 3, 0), (1, 2, 4)]]
    assert len(set(values)) == len(values)


def test_no_collision_and_balanced_bits() -> None:
    drawn = bits(0, np.arange(1000)[:, None], np.arange(100)).ravel()
    assert len(np.unique(drawn)) == drawn.size
    ones = np.unpackbits(drawn.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
    # 5 standard deviations of the mean of 100,000 fair bits.
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(drawn.size)


def test_uniform_range_and_moments() -> None:
    x = uniform(3, np.arange(100_000))
    assert x.dtype == np.float64
    assert x.min() >= 0.0
    assert x.max() < 1.0
    assert abs(x.mean() - 0.5) < 5 * np.sqrt(1 / 12 / x.size)
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 5 / np.sqrt(x.size)


@pytest.mark.parametrize("high", [1, 7, 10**9])
def test_integers_stay_below_the_bound(high: int) -> None:
    x = integers(high, 3, np.arange(10_000))
    assert x.dtype == np.int64
    assert x.min() >= 0
    assert x.max() < high
    if high == 7:
        # Chi-square of 6 degrees of freedom: below 22.5 with probability 0.999.
        expected = x.size / 7
        assert ((np.bincount(x) - expected) ** 2 / expected).sum() < 22.5


def test_permutation_holds_each_index_once_and_depends_on_the_key() -> None:
    first, second = permutation(1000, 5, 0), permutation(1000, 5, 1)
    assert sorted(first.tolist()) == list(range(1000))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, permutation(1000, 5, 0))
