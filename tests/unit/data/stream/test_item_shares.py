"""Item shares: written once by prepare, mapped by every process."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppr_dist.data.stream.item_shares import ItemShares, write_item_shares
from ppr_dist.errors import UserError

ITEMS = 3_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shares")
    counts = np.random.default_rng(0).integers(0, 50, ITEMS)
    table = pa.table({"train_count": pa.array(counts), "tune_count": pa.array(np.zeros(ITEMS, np.int64))})
    pq.write_table(table, folder / "items.parquet", row_group_size=1 << 20)
    write_item_shares(folder)
    return folder


def test_shares_are_counts_over_their_sum(folder: Path) -> None:
    counts = pq.read_table(folder / "items.parquet").column("train_count").to_numpy()
    ids = np.array([[0, ITEMS - 1], [1 << 20, 7]])
    found = ItemShares(folder, "train", ITEMS)[ids]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (counts / counts.sum()).astype(np.float32)[ids])
    assert ItemShares(folder, "tune", ITEMS)[ids].tolist() == [[0, 0], [0, 0]]


def test_to_another_process_travels_a_path(folder: Path) -> None:
    shares = ItemShares(folder, "train", ITEMS)
    sent = pickle.dumps(shares)
    assert len(sent) < 1_000
    np.testing.assert_array_equal(pickle.loads(sent)[np.arange(9)], shares[np.arange(9)])


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_share\.npy: cannot be read; run prepare again"):
        ItemShares(tmp_path, "train", ITEMS)
    with pytest.raises(UserError, match=r"train_share\.npy: \(3000000,\) float32, not 5 shares"):
        ItemShares(folder, "train", 5)
    (tmp_path / "train_share.npy").write_bytes((folder / "train_share.npy").read_bytes()[:999])
    with pytest.raises(UserError, match=r"train_share\.npy: cannot be read"):
        ItemShares(tmp_path, "train", ITEMS)
