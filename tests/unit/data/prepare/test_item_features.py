"""Vectors of items by raw id: where they go, what becomes of items without clicks, what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ppr_dist.data.item_data import read_item_data
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.errors import UserError
from tests.click_logs import make_log, read_split, save

WIDTH = 3


def vectors(items: np.ndarray) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    return pd.DataFrame({"item_id": items, "vector": list(rng.normal(size=(len(items), WIDTH)).astype(np.float32))})


def prepared(folder: Path, features: pd.DataFrame | None, **options: float) -> tuple[Manifest, pd.DataFrame]:
    log, profile = make_log()
    of_items = {}
    if features is not None:
        features.to_parquet(folder / "features.parquet")
        of_items = {"text": str(folder / "features.parquet")}
    config = PrepareConfig(**options)  # type: ignore[arg-type]
    prepare(*save(folder, log, profile), folder / "data", config, item_features=of_items, overwrite=True)
    return load_manifest(folder / "data"), log


def test_each_item_has_its_own_vector_in_half_precision(tmp_path: Path) -> None:
    log, _ = make_log()
    clicked = np.unique(log.item_id)
    features = vectors(np.append(clicked[:-3], [7, 11])).sample(frac=1, random_state=0)
    manifest, _ = prepared(tmp_path, features)
    ids = pq.read_table(tmp_path / "data" / "items.parquet").to_pandas()
    # Clicked or not, all are in the catalogue.
    assert set(ids.item_id) == {*clicked, 7, 11}
    assert manifest.items == len(clicked) + 2
    assert not ids.set_index("item_id").loc[[7, 11], ["train_count", "tune_count"]].any(axis=None)
    found = read_item_data(tmp_path / "data", manifest, ["text"])["text"]
    by_id = dict(zip(features.item_id, features.vector, strict=True))
    for item, row in zip(ids.item_id, found, strict=True):
        np.testing.assert_array_equal(row, by_id.get(item, np.zeros(WIDTH)).astype(np.float16))
    data = manifest.item_data["text"]
    assert (data.kind, data.columns, data.known) == ("features", WIDTH, len(features))
    assert data.sha256 == hashlib.sha256(found.tobytes()).hexdigest()


def test_columns_of_numbers_and_a_npy_file_say_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    log = pd.DataFrame({"user_id": rng.integers(0, 9, 90), "item_id": rng.integers(0, 20, 90), "position": range(90)})
    log.to_parquet(tmp_path / "log.parquet")
    array = rng.normal(size=(25, WIDTH)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    columns = pd.DataFrame(array, columns=["x", "y", "z"]).assign(item_id=np.arange(25))
    columns.to_parquet(tmp_path / "b.parquet")
    columns.to_csv(tmp_path / "c.csv", index=False)
    of_items = {name: str(tmp_path / file) for name, file in (("a", "a.npy"), ("b", "b.parquet"), ("c", "c.csv"))}
    manifest = prepare(str(tmp_path / "log.parquet"), None, tmp_path / "data", PrepareConfig(), item_features=of_items)
    assert manifest.items == 25
    found = read_item_data(tmp_path / "data", manifest, of_items)
    np.testing.assert_array_equal(found["a"], found["b"])
    np.testing.assert_array_equal(found["c"], found["b"])
    assert len({data.sha256 for data in manifest.item_data.values()}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(item_id=f.item_id.astype(str)), "item ids are string, but int64 in the log"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "stands there more than once"),
        (lambda f: f.assign(vector=[x[: 1 + n % 2] for n, x in enumerate(f.vector)]), "are of 1 to 2 numbers"),
        (lambda f: f.assign(vector=[x * 1e6 for x in f.vector]), "not finite in half precision"),
        (lambda f: f.assign(vector=[[None, 1.0, 2.0] for _ in f.vector]), "a vector holds null"),
        (lambda f: f.assign(vector=None), "a vector holds null|have no vector"),
        (lambda f: f.iloc[:0], "no items in it"),
        (lambda f: f[["item_id"]], "no column beside 'item_id'"),
        (lambda f: f.rename(columns={"item_id": "id"}), "no column 'item_id'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, change: object, message: str) -> None:
    log, _ = make_log()
    with pytest.raises(UserError, match=message) as refused:
        prepared(tmp_path, change(vectors(np.unique(log.item_id))))  # type: ignore[operator]
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "data").exists()


def by_raw_id(folder: Path, manifest: Manifest) -> dict[str, dict[int, list[int]]]:
    """Clicks of each user by split."""
    items = pq.read_table(folder / "items.parquet").column("item_id").to_numpy()
    users = pq.read_table(folder / "users.parquet").column("user_id").to_numpy()
    splits = {name: read_split(folder, manifest, name) for name in manifest.splits}
    return {
        name: {users[u]: items[clicks].tolist() for u, clicks in zip(split.user, split["items"], strict=True)}
        for name, split in splits.items()
    }


def test_of_hidden_items_training_sees_no_click_and_evaluation_all_it_asks_for(tmp_path: Path) -> None:
    options = {"simulate_cold": 0.3, "tune_validation_fraction": 0.2}
    before = by_raw_id(tmp_path / "data", prepared(tmp_path, None, **options)[0])
    manifest, log = prepared(tmp_path, None, hide_items=0.25, **options)
    now = by_raw_id(tmp_path / "data", manifest)
    catalogue = pq.read_table(tmp_path / "data" / "items.parquet").column("item_id").to_pylist()
    assert set(catalogue) == set(log.item_id)
    trained_on = [clicks[:-1] for clicks in now["pretrain"].values()] + list(now["tune-train"].values())
    hidden = set(catalogue) - {item for clicks in trained_on for item in clicks}
    assert len(hidden) >= round(0.25 * manifest.items)
    assert len(hidden & {item for clicks in before["pretrain"].values() for item in clicks}) > 5
    for name, users in before.items():
        for user, clicks in users.items():
            kept = [
                item
                for n, item in enumerate(clicks)
                if item not in hidden
                or name in ("tune-test", "tune-validation")
                or (name == "pretrain" and n == len(clicks) - 1)
            ]
            assert now[name].get(user, []) == kept, name
