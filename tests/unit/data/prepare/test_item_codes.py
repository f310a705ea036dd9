"""Residual k-means: near items share first codes, each level leaves less over, what is unknown has no code."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppr_dist.data.prepare.item_codes import k_means, nearest, write_codes


def clusters(items: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Rows around 4 far centres, and which."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, 4, items)
    return (np.eye(4)[which] * 20 + rng.normal(size=(items, 4))).astype(np.float16), which


def test_the_first_code_is_the_cluster_and_the_next_tell_apart_within(tmp_path: Path) -> None:
    features, which = clusters()
    features[::10] = 0
    data = write_codes(tmp_path, [features[:, :2], features[:, 2:]], levels=3, codes=4, seed=1)
    codes = np.load(tmp_path / "item_data.codes.npy")
    assert codes.shape == (300, 3)
    assert (data.kind, data.columns, data.values, data.known) == ("codes", 3, 4, 270)
    known = np.arange(300) % 10 != 0
    assert not codes[~known].any()
    assert set(np.unique(codes[known])) == {1, 2, 3, 4}
    for cluster in range(4):
        assert len(set(codes[known & (which == cluster), 0])) == 1
    assert len({tuple(row) for row in codes[known]}) > 40
    again = write_codes(tmp_path, [features[:, :2], features[:, 2:]], levels=3, codes=4, seed=1)
    assert again == data


def test_centres_are_where_the_rows_are_and_rows_go_to_the_nearest() -> None:
    features, which = clusters()
    x = features.astype(np.float32)
    centres = k_means(x, 4, np.random.default_rng(3))
    means = np.stack([x[which == cluster].mean(0) for cluster in range(4)])
    np.testing.assert_allclose(np.sort(centres, axis=0), np.sort(means, axis=0), atol=1e-3)
    np.testing.assert_array_equal(nearest(x, centres), ((x[:, None] - centres) ** 2).sum(2).argmin(1))


def test_no_centre_stays_empty_and_few_rows_do() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros((500, 2)), rng.normal(size=(500, 2))]).astype(np.float32)
    assert len(set(nearest(x, k_means(x, 16, rng)))) == 16
    assert k_means(x[:3], 16, rng).shape == k_means(x[:0], 16, rng).shape == (16, 2)
    assert len(set(nearest(x[500:503], k_means(x[500:503], 16, rng)))) == 3
