"""What ``recommend`` reads: as prepare read it, with a documented default or one clear line for everything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.prepare import raw_users
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.prepare.raw_users import load_raw_users
from ppr_dist.errors import UserError
from tests.click_logs import make_log, read_split, save
from tests.served import Served, read_raw_users
from tests.shards import clicks_of, times_of

BUCKETS: dict[str, Any] = {"age": 4}
Frames = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Clicks, and profiles with a whole-number category beside bucketed ages and text."""
    log, profile = make_log(users=60, items=300)
    profile["zone"] = pd.array(np.arange(len(profile)) % 7 - 2, dtype="Int64")
    profile.loc[7, "zone"] = pd.NA
    return log, profile


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, frames: Frames) -> Path:
    folder = tmp_path_factory.mktemp("recommend-input")
    prepare(*save(folder, *frames), folder / "data", PrepareConfig(buckets=BUCKETS, min_item_count=3))
    return folder / "data"


def read(folder: Path, data: Path, users: pd.DataFrame, log: pd.DataFrame | None, kind: str = "parquet") -> Served:
    interactions, profiles = save(folder, log if log is not None else pd.DataFrame({"x": [1]}), users, kind)
    assert profiles is not None
    clicks = Path(interactions) if log is not None else None
    return read_raw_users(Path(profiles), clicks, data, load_manifest(data))


def prepared_users(data: Path, manifest: Manifest) -> dict[int, tuple[list[int], list[int], list[int]]]:
    """Raw id → (items, times, attribute values) as the shards have them."""
    raw = pd.read_parquet(data / "users.parquet").user_id
    names = [attribute.name for attribute in manifest.attributes]
    frame = pd.concat([read_split(data, manifest, split) for split in manifest.splits])
    return {
        int(raw[row.user]): (list(row.clicks), list(row.times), [getattr(row, name) for name in names])
        for row in frame.rename(columns={"items": "clicks"}).itertuples()
    }


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_reads_users_as_prepare_did(tmp_path: Path, data: Path, frames: Frames, kind: str) -> None:
    log, profile = frames
    manifest = load_manifest(data)
    assert [a.name for a in manifest.attributes] == ["age", "city", "zone"]
    raw = read(tmp_path, data, profile, log, kind)
    assert raw.ids.to_pylist() == profile.user_id.tolist()
    assert raw.all.index.tolist() == list(range(len(profile)))
    expected = prepared_users(data, manifest)
    compared = 0
    for row, user in enumerate(profile.user_id):
        if user in expected:
            items, times, values = expected[user]
            assert clicks_of(raw.all, row) == items
            assert times_of(raw.all, row) == times
            assert raw.all.attributes[:, row].tolist() == values
            compared += 1
    assert compared > 50
    rare = set(log.item_id) - set(pd.read_parquet(data / "items.parquet").item_id)
    mine = log[log.user_id.isin(profile.user_id)]
    assert rare
    assert (raw.clicks, raw.unknown_clicks) == (len(mine), int(mine.item_id.isin(rare).sum()))
    assert raw.all.offsets[-1] == len(raw.all.items) == raw.clicks - raw.unknown_clicks
    for name in ("index", "items", "offsets", "attributes", "times"):
        assert getattr(raw.all, name).dtype == np.int64


def test_any_range_of_users_is_that_of_all(
    tmp_path: Path, data: Path, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, profile = frames
    whole = read(tmp_path, data, profile, log).all
    monkeypatch.setattr(raw_users, "BLOCK", 8)
    interactions, users = save(tmp_path, log, profile)
    raw = load_raw_users(Path(str(users)), Path(interactions), data, load_manifest(data), tmp_path / "work")
    assert len(whole) == raw.users == len(profile)
    assert raw.clickless == (whole.lengths == 0).sum() > 0
    for start, stop in ((0, 8), (8, 16), (3, 5), (3, 30), (len(profile) - 1, len(profile)), (9, 9)):
        ids, part = raw.read(start, stop)
        assert ids.to_pylist() == profile.user_id.tolist()[start:stop]
        assert part.index.tolist() == list(range(start, stop))
        assert part.attributes.tolist() == whole.attributes[:, start:stop].tolist()
        for of_clicks in (clicks_of, times_of):
            mine = [of_clicks(whole, row) for row in range(start, stop)]
            assert [of_clicks(part, row) for row in range(len(part))] == mine


def test_new_users_need_nothing_but_a_profile(tmp_path: Path, data: Path, frames: Frames) -> None:
    new = pd.DataFrame({"zone": [3, 99], "city": ["Oslo", "Atlantis"], "user_id": [987654, 123456], "age": [-5, 200]})
    raw = read(tmp_path, data, new, None)
    assert raw.ids.to_pylist() == [987654, 123456]
    assert (raw.clicks, raw.unknown_clicks, len(raw.all.items)) == (0, 0, 0)
    assert raw.all.offsets.tolist() == [0, 0, 0]
    assert raw.all.times is not None  # of no click none is missing
    assert raw.all.times.tolist() == []
    age = load_manifest(data).attributes[0]
    values = pd.read_parquet(data / "attributes.parquet").set_index(["attribute", "value"]).value_index
    assert age.cardinality == 5
    assert raw.all.attributes.tolist() == [[1, 4], [values["city", "Oslo"], 0], [values["zone", "3"], 0]]
    # The log holds nobody of them.
    assert read(tmp_path, data, new, frames[0]).clicks == 0


def test_times_are_those_of_the_catalogue_or_none(
    tmp_path: Path, frames: Frames, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same column in the same unit; of a catalogue without times none are read."""
    log, profile = frames
    log = log.assign(position=range(len(log)), when=log.timestamp * 1000 + 1_700_000_000_999)
    told = {"order_column": "position", "time_column": "when", "time_unit": "ms"}
    partly = log.assign(when=log.when.where(log.index != 0))
    for name, clicks, options in (
        ("timed", log, told),
        ("untimed", log, told | {"time_column": ""}),
        ("partly", partly, told),
    ):
        prepare(*save(tmp_path, clicks, profile), tmp_path / name, PrepareConfig(buckets=BUCKETS, **options))
    capsys.readouterr()
    rows = [log[log.user_id == user] for user in profile.user_id]
    seconds = [(mine.when // 1000).tolist() for mine in rows]
    raw = read(tmp_path, tmp_path / "timed", profile, log)
    assert [times_of(raw.all, row) for row in range(raw.users)] == seconds
    assert sum(map(len, seconds)) > 500
    for name in ("untimed", "partly"):
        assert read(tmp_path, tmp_path / name, profile, log).all.times is None
    assert "warning" not in capsys.readouterr().err
    # Clicks of others, and on unknown items, are not read: theirs may lack a time.
    other = pd.DataFrame({"user_id": [-2, profile.user_id[0]], "item_id": [log.item_id[0], 5], "position": [0, 1]})
    raw = read(tmp_path, tmp_path / "timed", profile, pd.concat([log, other]))
    assert raw.unknown_clicks == 1
    assert [times_of(raw.all, row) for row in range(raw.users)] == seconds
    assert "warning" not in capsys.readouterr().err
    for missing in (log.index == rows[3].index[0], log.user_id.isin(profile.user_id)):
        raw = read(tmp_path, tmp_path / "timed", profile, log.assign(when=log.when.where(~missing)))
        assert raw.all.times is None
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        assert f"interactions.parquet: column 'when' is null for {missing.sum():,} of {raw.clicks:,} clicks, so" in line
        assert len(raw.all.items) == raw.clicks
    with pytest.raises(UserError, match=r"interactions.parquet: no column 'when'; it has user_id, item_id"):
        read(tmp_path, tmp_path / "timed", profile, log.drop(columns="when"))


def test_unknown_values_are_null_of_whatever_type(tmp_path: Path, data: Path) -> None:
    new = pd.DataFrame({"user_id": [1, 2], "age": [None, None], "city": [None, None], "zone": [np.nan, 4.0]})
    for kind in ("parquet", "csv"):
        raw = read(tmp_path, data, new, None, kind)
        assert raw.all.attributes[:, 0].tolist() == [0, 0, 0]
        assert raw.all.attributes[:2, 1].tolist() == [0, 0]
        assert raw.all.attributes[2, 1] > 0  # 4.0, as pandas writes a 4 beside a null
    assert read(tmp_path, data, new.assign(age=np.nan), None).all.attributes[0].tolist() == [0, 0]


def test_text_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    codes = ["007", "7", "2.50", "1e3", "x"]
    log = pd.DataFrame({"user_id": [f"u{i}" for i in range(5)] * 2, "item_id": ["a", "b"] * 5, "position": range(10)})
    profile = pd.DataFrame({"user_id": [f"u{i}" for i in range(5)], "code": codes})
    interactions, users = save(tmp_path, log, profile, "csv")
    prepare(interactions, users, tmp_path / "data", PrepareConfig(min_attribute_count=0))
    values = pd.read_parquet(tmp_path / "data" / "attributes.parquet").set_index("value").value_index
    for code in codes:
        raw = read(tmp_path, tmp_path / "data", pd.DataFrame({"user_id": ["501"], "code": [code]}), None, "csv")
        assert raw.all.attributes.tolist() == [[values[code]]]
        assert raw.ids.to_pylist() == ["501"]


Change = Callable[[pd.DataFrame], pd.DataFrame]


def same(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


REFUSED: list[tuple[Change, Change, str, str]] = [
    (lambda users: users.drop(columns="city"), same, "parquet", "users.parquet: no column 'city'; it has user_id, age"),
    (lambda users: users.drop(columns="user_id"), same, "parquet", "users.parquet: no column 'user_id'; it has age"),
    (lambda users: users.iloc[:0], same, "parquet", "users.parquet: no users"),
    (lambda users: users.iloc[:0], same, "csv", "users.csv: no users"),
    (lambda users: pd.concat([users, users[:1]]), same, "parquet", "users.parquet: user -50 has 2 rows"),
    (lambda users: users.astype({"user_id": str}), same, "parquet", "'user_id' is string, but int64 in .*data"),
    (lambda users: users.astype({"user_id": float}), same, "parquet", "users.parquet: column 'user_id' is DOUBLE"),
    (lambda users: users.assign(user_id="a"), same, "csv", "users.csv: column 'user_id' is string, but int64 in"),
    (lambda users: users.assign(age="old"), same, "csv", "users.csv: column 'age' holds 'old', which is not a number"),
    (lambda users: users.assign(age="old"), same, "parquet", "users.parquet: column 'age' holds 'old', which is not"),
    (same, lambda log: log.drop(columns="item_id"), "parquet", "interactions.parquet: no column 'item_id'"),
    (same, lambda log: log.drop(columns="user_id"), "parquet", "interactions.parquet: no column 'user_id'"),
    (same, lambda log: log.drop(columns="timestamp"), "parquet", "interactions.parquet: no column 'timestamp'"),
    (same, lambda log: log.iloc[:0], "parquet", "interactions.parquet: no interactions"),
    (same, lambda log: log.iloc[:0], "csv", "interactions.csv: no interactions"),
    (same, lambda log: log.astype({"item_id": str}), "parquet", "'item_id' is string, but int64 in .*data"),
    (same, lambda log: log.astype({"user_id": str}), "parquet", "'user_id' is string, but int64 in .*data"),
    (same, lambda log: log.astype({"timestamp": str}), "parquet", "column 'timestamp' is text"),
    (same, lambda log: log.assign(timestamp="noon"), "csv", "interactions.csv: column 'timestamp' is text"),
]


@pytest.mark.parametrize(("change_users", "change_log", "kind", "pattern"), REFUSED)
def test_bad_files_are_named(
    tmp_path: Path, data: Path, frames: Frames, change_users: Change, change_log: Change, kind: str, pattern: str
) -> None:
    log, profile = frames
    with pytest.raises(UserError, match=pattern) as refused:
        read(tmp_path, data, change_users(profile), change_log(log), kind)
    assert "\n" not in str(refused.value)


def test_missing_files_are_named(tmp_path: Path, data: Path, frames: Frames) -> None:
    interactions, users = save(tmp_path, *frames)
    manifest = load_manifest(data)
    assert users is not None
    for given, pattern in (
        ((tmp_path / "absent.parquet", None), "absent.parquet: no such file"),
        ((Path(users), tmp_path / "absent.csv"), "absent.csv: no such file"),
        ((tmp_path / "text.parquet", None), "text.parquet: cannot be read"),
    ):
        (tmp_path / "text.parquet").write_text("PAR1 not really")
        with pytest.raises(UserError, match=pattern) as refused:
            read_raw_users(*given, data, manifest)
        assert "\n" not in str(refused.value)
    (tmp_path / "half").mkdir()
    for name in ("attributes.parquet", "items.parquet"):  # in the order in which they are read
        with pytest.raises(UserError, match=f"{name}: cannot be read") as refused:
            read_raw_users(Path(users), Path(interactions), tmp_path / "half", manifest)
        assert "\n" not in str(refused.value)
        (tmp_path / "half" / name).write_bytes((data / name).read_bytes())
    read_raw_users(Path(users), Path(interactions), tmp_path / "half", manifest)


def test_an_attribute_may_have_the_name_that_ids_have_by_default(tmp_path: Path) -> None:
    log = pd.DataFrame({"uid": [1, 1, 2, 2, 3], "item_id": [5, 6, 5, 7, 7], "position": range(5)})
    users = pd.DataFrame({"uid": [1, 2, 3], "user_id": ["a", "b", "b"]})
    config = PrepareConfig(user_column="uid", min_attribute_count=0)
    prepare(*save(tmp_path, log, users), tmp_path / "data", config)
    raw = read(tmp_path, tmp_path / "data", users, log)
    assert raw.ids.to_pylist() == [1, 2, 3]
    assert raw.all.attributes.tolist() == [[1, 2, 2]]
