"""``prepare`` against a brute-force reading of its rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from tests.click_logs import check, make_log, read_split, save, seeded


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"simulate_cold": 0.4, "min_item_count": 8, "users_per_member": 7, "members_per_shard": 2},
        {"cold_threshold": 5, "simulate_cold": 1.0, "tune_test_fraction": 0.5, "users_per_member": 3},
        {"min_item_count": 25, "tune_test_fraction": 0.0, "tune_validation_fraction": 1.0},
        {"tune_validation_fraction": 0.3, "simulate_cold": 0.4},
        {"tune_test_fraction": 0.25, "tune_test_fold": 3, "tune_validation_fraction": 0.3, "simulate_cold": 0.4},
        {"tune_train_users": 5, "cold_clicks": 2, "tune_validation_fraction": 0.3, "simulate_cold": 0.4},
    ],
)
def test_agrees_with_brute_force(tmp_path: Path, options: dict[str, Any]) -> None:
    log, profile = make_log()
    config = PrepareConfig(**options)
    prepare(*save(tmp_path, log, profile), tmp_path / "data", config)
    check(tmp_path / "data", log, profile, config)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "interactions.parquet", "users.parquet"]


def test_over_all_folds_each_cold_user_is_tested_once(tmp_path: Path) -> None:
    log, profile = make_log()
    paths = save(tmp_path, log, profile)
    tested: list[Any] = []
    everyone, items = set[Any](), set[tuple[Any, ...]]()
    for fold in range(1, 6):
        config = PrepareConfig(simulate_cold=0.4, tune_validation_fraction=0.2, tune_test_fold=fold)
        prepare(*paths, tmp_path / f"{fold}", config)
        users = pd.read_parquet(tmp_path / f"{fold}" / "users.parquet")
        test, tune = (set(users.user_id[users.split == name]) for name in ("tune-test", "tune-train"))
        validating = set(users.user_id[users.split == "tune-validation"])
        assert test
        assert tune
        assert validating
        assert not test & (tune | validating)
        tested += test
        everyone |= test | tune | validating
        items.add(tuple(pd.read_parquet(tmp_path / f"{fold}" / "items.parquet").item_id))
    assert len(tested) == len(set(tested))
    assert set(tested) == everyone
    assert len(items) == 1, "one pre-trained run fits all folds"


def test_fewer_tuning_users_are_a_subset_and_cropping_keeps_the_items(tmp_path: Path) -> None:
    log, profile = make_log()
    paths = save(tmp_path, log, profile)
    found = {}
    for name, options in {
        "all": {},
        "9": {"tune_train_users": 9},
        "4": {"tune_train_users": 4, "cold_clicks": 1},
    }.items():
        prepare(*paths, tmp_path / name, PrepareConfig(simulate_cold=0.4, **options))  # type: ignore[arg-type]
        users = pd.read_parquet(tmp_path / name / "users.parquet")
        found[name] = {split: set(users.user_id[users.split == split]) for split in users.split.unique()}
    assert found["4"]["tune-train"] < found["9"]["tune-train"] < found["all"]["tune-train"]
    assert [len(found[name]["tune-train"]) for name in ("4", "9")] == [4, 9]
    assert found["4"]["tune-test"] == found["all"]["tune-test"]
    assert found["4"]["pretrain"] == found["all"]["pretrain"]
    manifests = [load_manifest(tmp_path / name) for name in found]
    assert len({m.tables["items.parquet"] for m in manifests}) == 1
    test = manifests[2].splits["tune-test"]
    assert test.events == test.users


def test_string_ids_and_csv(tmp_path: Path) -> None:
    log, profile = make_log()
    for frame in (log, profile):
        frame["user_id"] = "u," + frame.user_id.astype(str)
    log["item_id"] = "00" + log.item_id.astype(str)
    for kind in ("parquet", "csv"):
        prepare(*save(tmp_path, log, profile, kind), tmp_path / f"data-{kind}", PrepareConfig())
        check(tmp_path / f"data-{kind}", log, profile, PrepareConfig())
    # The same log in another dress is the same data set.
    first, second = (load_manifest(tmp_path / f"data-{kind}") for kind in ("parquet", "csv"))
    assert first == second
    assert first.item_id_type == "string"


def test_csv_ids_stay_integers_and_codes_keep_their_zeros(tmp_path: Path) -> None:
    log, profile = make_log()
    profile["zip"] = [f"{k % 9:05d}" for k in range(len(profile))]
    prepare(*save(tmp_path, log, profile, "csv"), tmp_path / "data", PrepareConfig())
    manifest = load_manifest(tmp_path / "data")
    assert manifest.item_id_type == manifest.user_id_type == "int64"
    check(tmp_path / "data", log, profile, PrepareConfig())


def test_ids_beyond_a_float_survive(tmp_path: Path) -> None:
    log, _ = make_log(users=20)
    log["item_id"] = log.item_id % 7 + 2**62
    prepare(*save(tmp_path, log), tmp_path / "data", PrepareConfig())
    check(tmp_path / "data", log, None, PrepareConfig())
    assert load_manifest(tmp_path / "data").attributes == ()


def test_position_is_preferred_and_timestamp_may_then_be_null(tmp_path: Path) -> None:
    log, profile = make_log()
    log["position"] = np.random.default_rng(1).permutation(len(log))
    log["timestamp"] = None
    prepare(*save(tmp_path, log, profile), tmp_path / "data", PrepareConfig())
    check(tmp_path / "data", log, profile, PrepareConfig(), order="position")
    log["timestamp"] = log.position.max() - log.position
    prepare(*save(tmp_path, log, profile), tmp_path / "other", PrepareConfig(order_column="timestamp"))
    check(tmp_path / "other", log, profile, PrepareConfig(), order="timestamp")


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_times_in_nanoseconds_and_profiles_without_attributes(tmp_path: Path, zone: str | None) -> None:
    log, profile = make_log()
    start = pd.Timestamp("2024-01-01", tz=zone)
    stamped = log.assign(timestamp=start + pd.to_timedelta(log.timestamp.to_numpy(), unit="ns"))
    prepare(*save(tmp_path, stamped, profile[["user_id"]]), tmp_path / "data", PrepareConfig())
    check(tmp_path / "data", log, None, PrepareConfig())


def test_folder_of_files_and_times_as_text(tmp_path: Path) -> None:
    log, _ = make_log()
    (tmp_path / "parts").mkdir()
    stamped = log.assign(timestamp=pd.Timestamp("2024-01-01") + pd.to_timedelta(log.timestamp, unit="D"))
    for part in range(3):
        stamped.iloc[part::3].to_csv(tmp_path / "parts" / f"part-{part}.csv", index=False)
    prepare(str(tmp_path / "parts"), None, tmp_path / "data", PrepareConfig())
    check(tmp_path / "data", log, None, PrepareConfig())
    prepare(str(tmp_path / "parts" / "*.csv"), None, tmp_path / "glob", PrepareConfig())
    assert load_manifest(tmp_path / "glob") == load_manifest(tmp_path / "data")


def test_same_input_and_seed_same_bytes(tmp_path: Path) -> None:
    log, profile = make_log()
    paths = save(tmp_path, log, profile)
    for name, seed, limit in (("a", 0, None), ("b", 0, "1GB"), ("c", 1, None)):
        config = PrepareConfig(seed=seed, simulate_cold=0.3, memory_limit=limit, buckets={"age": 4})
        prepare(*paths, tmp_path / name, config)
    content = {n: {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in "abc"}
    assert content["a"] == content["b"]
    assert len(content["a"]) == 9
    assert load_manifest(tmp_path / "a").times
    assert content["a"] != content["c"]


def test_buckets_by_quantile_and_by_edges(tmp_path: Path) -> None:
    log, profile = make_log()
    paths = save(tmp_path, log, profile)
    prepare(*paths, tmp_path / "edges", PrepareConfig(attributes="age", buckets={"age": [25.0, 40.0]}))
    prepare(*paths, tmp_path / "quantiles", PrepareConfig(attributes=["age"], buckets={"age": 4}))
    for name in ("edges", "quantiles"):
        manifest = load_manifest(tmp_path / name)
        (age,) = manifest.attributes
        assert age.buckets is not None
        assert age.cardinality == len(age.buckets) + 2
        users = pd.read_parquet(tmp_path / name / "users.parquet").user_id.to_numpy()
        frame = pd.concat([read_split(tmp_path / name, manifest, split) for split in manifest.splits])
        truth = profile.set_index("user_id").age.reindex(users[frame.user.to_numpy(dtype=np.int64)])
        want = np.where(truth.isna(), 0, 1 + np.searchsorted(age.buckets, truth.fillna(0).astype(float), side="right"))
        assert frame.age.tolist() == want.tolist()
        if name == "quantiles":
            sizes = np.bincount(want)[1:]
            assert len(sizes) == 4
            assert sizes.max() - sizes.min() <= 10
    assert pd.read_parquet(tmp_path / "edges" / "attributes.parquet").value.tolist() == [
        "[-inf, 25)",
        "[25, 40)",
        "[40, inf)",
    ]


def test_all_null_attribute_is_kept_as_unknown_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, profile = make_log()
    profile["empty"] = pd.array([None] * len(profile), dtype="string")
    prepare(*save(tmp_path, log, profile), tmp_path / "data", PrepareConfig())
    assert {a.name: a.cardinality for a in load_manifest(tmp_path / "data").attributes}["empty"] == 1
    assert "warning" in (err := capsys.readouterr().err)
    assert "'empty'" in err


def test_rare_values_are_unknown_and_a_value_each_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, profile = make_log(users=300)
    profile["address"] = [f"{k} Main St" for k in range(len(profile))]
    profile["club"] = np.where(profile.index % 30 == 0, "chess", "none")
    paths = save(tmp_path, log, profile)
    cardinality: dict[tuple[float, int], dict[str, int]] = {}
    for cold, least in ((0.0, 2), (0.5, 2), (0.5, 0), (0.5, 10**6)):
        config = PrepareConfig(simulate_cold=cold, min_attribute_count=least)
        manifest = prepare(*paths, tmp_path / "data", config, overwrite=True)
        check(tmp_path / "data", log, profile, config)
        cardinality[cold, least] = {a.name: a.cardinality for a in manifest.attributes}
        err = capsys.readouterr().err
        assert "column 'address' has 295 values for 295 users" in err
        assert ("no value of column 'address' is had by" in err) == (least > 0)
        assert "'city' has" not in err
    assert cardinality[0.5, 0]["address"] == 296
    assert cardinality[0.5, 2]["address"] == 1
    assert cardinality[0.5, 2]["club"] == 3
    assert set(cardinality[0.5, 10**6].values()) == {1}
    # Without a cold user all users count.
    warm = log.groupby("user_id").filter(lambda clicks: len(clicks) > 9)
    prepare(*save(tmp_path, warm, profile), tmp_path / "warm", PrepareConfig())
    check(tmp_path / "warm", warm, profile, PrepareConfig())
    assert {a.name: a.cardinality for a in load_manifest(tmp_path / "warm").attributes}["club"] == 3


def test_unused_profiles_add_no_values_and_whole_floats_are_integers(tmp_path: Path) -> None:
    log, profile = make_log()
    profile["age"] = profile.age.astype(float)
    prepare(*save(tmp_path, log, profile), tmp_path / "data", PrepareConfig())
    values = pd.read_parquet(tmp_path / "data" / "attributes.parquet")
    assert values[values.attribute == "city"].value.tolist() == ["O'Fallon", "Oslo", "Rome", "Århus"]
    assert values[values.attribute == "age"].value.str.fullmatch(r"\d+").all()


def test_more_rows_than_memory_holds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, count = 3_000_000, 150_000
    log = pa.table(
        {
            "user_id": rng.integers(0, count, rows),
            "item_id": rng.integers(0, 200_000, rows) * 5,
            "timestamp": rng.integers(0, 10**5, rows),
        }
    )
    pq.write_table(log, tmp_path / "log.parquet")
    prepare(
        str(tmp_path / "log.parquet"),
        None,
        tmp_path / "data",
        PrepareConfig(memory_limit="200MB", simulate_cold=0.1),
    )
    manifest = load_manifest(tmp_path / "data")
    frame = read_split(tmp_path / "data", manifest, "pretrain")
    users = pd.read_parquet(tmp_path / "data" / "users.parquet").user_id.to_numpy()
    items = pd.read_parquet(tmp_path / "data" / "items.parquet").item_id.to_numpy()
    assert len(users) == count
    counts = pd.read_parquet(tmp_path / "data" / "items.parquet")[["train_count", "tune_count"]].sum()
    warm, tuning = manifest.split("pretrain"), manifest.split("tune-train")
    assert counts.tolist() == [warm.events - 2 * warm.users, tuning.events]
    assert len(items) == manifest.items
    # All pretrain sequences at once: sort the log as stated, keep those users, compare the flat items.
    users_of = np.full(count, -1)
    users_of[users] = np.arange(count)
    frame_of_log = log.to_pandas()
    frame_of_log["user"] = users_of[frame_of_log.user_id]
    tied = frame_of_log[frame_of_log.duplicated(["user_id", "timestamp"], keep=False)]
    hashes = [seeded("tie", f"{user}:{item}") / 2**128 for user, item in zip(tied.user_id, tied.item_id, strict=True)]
    frame_of_log["tie"] = pd.Series(hashes, tied.index).reindex(frame_of_log.index, fill_value=0.0)
    sorted_log = frame_of_log.sort_values(["user", "timestamp", "tie", "item_id"])
    expected = sorted_log[sorted_log.user < len(frame)]
    assert np.array_equal(items[np.concatenate(frame["items"].to_list())], expected.item_id)
    lengths = frame["items"].map(len)
    assert np.array_equal(np.repeat(frame.user, lengths), expected.user)
    assert lengths.min() >= 10
