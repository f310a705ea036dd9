"""Beam search against all items enumerated, and against a plain beam search in Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ppr_dist.p5.beam import Trie, beam_search

SIZES, QUERIES = (4, 3, 5), 6
_RNG = np.random.default_rng(0)
CODES = np.stack(np.unravel_index(_RNG.permutation(60)[:23], SIZES), axis=1)
"""Of 23 items: most beginnings have few ways on, some none."""
LOG_P = [
    torch.log_softmax(torch.from_numpy(_RNG.normal(size=(QUERIES, *SIZES[: level + 1]))), dim=-1).float()
    for level in range(3)
]
"""Of the next code, by query and the codes before it."""
LEFT_OUT = np.array([[0, 3], [0, 4], [2, 22], [5, 0]]).T


def log_p(codes: Tensor) -> Tensor:
    queries = torch.arange(QUERIES)[:, None].expand(codes.shape[:2])
    return LOG_P[codes.shape[2]][queries, *codes.unbind(2)]


def exact() -> np.ndarray:
    """Log probability of each item for each query, [I, N]; −inf of those left out."""
    scores = sum(of[:, *CODES[:, : level + 1].T].numpy() for level, of in enumerate(LOG_P))
    scores[tuple(LEFT_OUT)] = -np.inf
    return scores


def found(beams: int) -> tuple[np.ndarray, np.ndarray]:
    left_out = torch.from_numpy(LEFT_OUT[0]), torch.from_numpy(LEFT_OUT[1])
    items, scores = beam_search(Trie(CODES, torch.device("cpu")), log_p, QUERIES, beams, left_out)
    return items.numpy(), scores.numpy()


@pytest.mark.parametrize("beams", [23, 500])
def test_as_many_beams_as_items_give_the_order_of_all_of_them(beams: int) -> None:
    items, scores = found(beams)
    want = exact()
    order = np.argsort(-want, axis=1)
    known = np.isfinite(np.take_along_axis(want, order, axis=1))
    np.testing.assert_array_equal(items, np.where(known, order, -1))
    np.testing.assert_allclose(scores, np.take_along_axis(want, order, axis=1), rtol=1e-5)


def plain(query: int, beams: int) -> list[int]:
    begun: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    there = {tuple(codes[:n]) for codes in CODES.tolist() for n in (1, 2, 3)}
    gone = {tuple(CODES[item]) for which, item in LEFT_OUT.T if which == query}
    for level, size in enumerate(SIZES):
        longer = [
            ((*codes, code), score + float(LOG_P[level][query, *codes, code]))
            for codes, score in begun
            for code in range(size)
            if (*codes, code) in there and (*codes, code) not in gone
        ]
        begun = sorted(longer, key=lambda each: -each[1])[:beams]
    return [CODES.tolist().index(list(codes)) for codes, _ in begun]


@pytest.mark.parametrize("beams", [1, 2, 3, 7])
def test_fewer_beams_find_what_a_plain_search_finds_and_nothing_but_items(beams: int) -> None:
    items, scores = found(beams)
    for query in range(QUERIES):
        valid = items[query][items[query] >= 0].tolist()
        assert valid == plain(query, beams)
        np.testing.assert_allclose(scores[query, : len(valid)], exact()[query, valid], rtol=1e-5)
    assert beams > 2 or (items[:, 0] != exact().argmax(axis=1)).any()  # few beams miss what all find


def test_of_no_query_nothing_is_found() -> None:
    none = torch.zeros(0, dtype=torch.int64)

    def no_p(codes: Tensor) -> Tensor:
        return torch.zeros(0, codes.shape[1], SIZES[codes.shape[2]])

    items, _ = beam_search(Trie(CODES, torch.device("cpu")), no_p, 0, 4, (none, none))
    assert items.shape == (0, 4)
