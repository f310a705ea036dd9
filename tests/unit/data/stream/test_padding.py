"""Buckets of similar length: every sequence in one, hardly any padding."""

from __future__ import annotations

import numpy as np
import pytest

from ppr_dist.data.stream import padding
from ppr_dist.data.stream.padding import BUCKET_TOKENS, FULL, bucket_by_length, ragged_arange, rebucket


def test_ragged_arange() -> None:
    row, within = ragged_arange(np.array([2, 0, 3]))
    assert row.tolist() == [0, 0, 2, 2, 2]
    assert within.tolist() == [0, 1, 0, 1, 2]


def parts(lengths: np.ndarray, sizes: list[int]) -> list[list[int]]:
    return [part.tolist() for part in np.split(lengths, np.cumsum(sizes)[:-1])]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [5], [1] * 7, [9, 9, 8, 4, 4, 3, 1, 1, 0, 0], list(range(40))])
@pytest.mark.parametrize("bucket_tokens", [1, 12, BUCKET_TOKENS])
def test_buckets_cover_the_users_in_order(
    lengths: list[int], bucket_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(padding, "BUCKET_TOKENS", bucket_tokens)
    descending = np.array(sorted(lengths, reverse=True), np.int64)
    buckets = bucket_by_length(descending)
    assert buckets  # never none, and never a width of 0: the model needs something to run on
    assert sum(bucket.sequences for bucket in buckets) == len(lengths)
    for bucket, part in zip(buckets, parts(descending, [b.sequences for b in buckets]), strict=True):
        assert bucket.tokens == sum(part)
        assert bucket.width == max([1, *part])
    if bucket_tokens == 1 and len(lengths) == 40:
        assert len(buckets) > 5


def test_many_users_of_one_length_have_no_padding() -> None:
    lengths = np.repeat([50, 49, 20], [40, 3, 100])
    first, second, third = bucket_by_length(lengths, 512)
    assert (first.sequences, second.sequences, third.sequences) == (40, 11, 92)
    assert first.tokens == first.sequences * first.width
    assert third.tokens == third.sequences * third.width


def test_rebucketed_users_stay_together() -> None:
    # As a view with dropped interactions does: the buckets stay, the lengths shrink.
    buckets = bucket_by_length(np.array([6, 5, 3, 2, 0]), 4)
    assert len(buckets) > 1
    kept = np.array([3, 5, 1, 0, 0])
    found = rebucket(buckets, kept)
    for bucket, part in zip(found, parts(kept, [b.sequences for b in buckets]), strict=True):
        assert (bucket.sequences, bucket.tokens, bucket.width) == (len(part), sum(part), max([1, *part]))


def test_few_slots_are_padding() -> None:
    lengths = np.sort(np.clip(np.random.default_rng(0).geometric(0.05, 4000), 1, 50))[::-1]
    buckets = bucket_by_length(lengths)
    assert lengths.sum() / sum(bucket.sequences * bucket.width for bucket in buckets) > FULL
    # One block padded to the longest history would be mostly padding.
    assert lengths.sum() / (len(lengths) * 50) < 0.4
    # No product is small, but for the last.
    assert all(bucket.sequences * bucket.width >= BUCKET_TOKENS for bucket in buckets[:-1])
