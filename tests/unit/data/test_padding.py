"""Padded groups: every token in its place, every slot number its own, hardly any padding."""

from __future__ import annotations

import numpy as np
import pytest

from ppr_dist.data import padding
from ppr_dist.data.padding import FULL, GROUP_TOKENS, PaddedHistories, pad_histories, ragged_arange


def make(lengths: list[int], seed: int = 0) -> tuple[PaddedHistories, list[list[int]]]:
    """Histories lying anywhere in a flat array, and the same as lists."""
    rng = np.random.default_rng(seed)
    items = rng.integers(1, 2**40, 1000)
    counts = np.array(sorted(lengths, reverse=True), np.int64)
    starts = rng.integers(0, 1000 - max(lengths, default=0), len(counts))
    padded = pad_histories(items, starts, counts)
    return padded, [items[s : s + n].tolist() for s, n in zip(starts, counts, strict=True)]


def test_ragged_arange() -> None:
    row, within = ragged_arange(np.array([2, 0, 3]))
    assert row.tolist() == [0, 0, 2, 2, 2]
    assert within.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [5], [1] * 7, [9, 9, 8, 4, 4, 3, 1, 1, 0, 0], list(range(40))])
@pytest.mark.parametrize("group_tokens", [1, 12, GROUP_TOKENS])
def test_layout_against_lists(lengths: list[int], group_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "GROUP_TOKENS", group_tokens)
    padded, lists = make(lengths)
    groups = padded.groups(padded.ids)
    assert groups  # never none, and never a width of 0: the tower needs something to run on
    assert all(group.shape[1] >= 1 for group in groups)
    rows = [row for group in groups for row in group.tolist()]
    assert len(rows) == len(lengths)
    for row, history in zip(rows, lists, strict=True):
        assert row == history + [0] * (len(row) - len(history))
    # Slots: user after user through all groups, L_g + 1 for each.
    want, slot = [], 0
    for group in groups:
        for _ in range(len(group)):
            want.append(slot)
            slot += group.shape[1] + 1
    assert padded.first_slot.tolist() == want
    if group_tokens == 1 and len(lengths) == 40:
        assert len(groups) > 5


def test_shorter_histories_fit_the_same_layout() -> None:
    # As the behaviour-masked view does: the groups stay, the lengths shrink.
    padded, lists = make([6, 5, 3, 2, 0])
    kept = np.array([3, 5, 1, 0, 0])
    tokens = np.array([item for history, n in zip(lists, kept, strict=True) for item in history[:n]], np.int64)
    shrunk = PaddedHistories(tokens, kept, padded.bounds, padded.first_slot).groups(tokens)
    assert [group.shape for group in shrunk] == [group.shape for group in padded.groups(padded.ids)]
    rows = [row for group in shrunk for row in group.tolist()]
    for row, history, n in zip(rows, lists, kept, strict=True):
        assert row == history[:n] + [0] * (len(row) - n)


def test_few_slots_are_padding() -> None:
    lengths = np.sort(np.clip(np.random.default_rng(0).geometric(0.05, 4000), 1, 50))[::-1]
    items = np.arange(50)
    padded = pad_histories(items, np.zeros(len(lengths), np.int64), lengths)
    slots = sum((last - first) * width for first, last, width in padded.bounds)
    assert lengths.sum() / slots > FULL
    # One block padded to the longest history would be mostly padding.
    assert lengths.sum() / (len(lengths) * 50) < 0.4
    # No product is small, but for the last.
    assert all((last - first) * width >= GROUP_TOKENS for first, last, width in padded.bounds[:-1])
