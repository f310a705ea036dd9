"""The times of a log: units, precision, what is refused, what stands beside a position, and what the shards keep."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.prepare import logs
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.prepare.sources import open_source
from ppr_dist.errors import UserError
from ppr_dist.prepare import summary
from tests.click_logs import make_log, read_split, save, sequences
from tests.served import read_raw_users

START = 1_700_000_000


def times(folder: Path, values: Any, kind: str = "parquet", **options: Any) -> list[int | None]:
    """Nanoseconds of the clicks of one user on items 0, 1, … in the order of the log, and check that order."""
    path = folder / f"log.{kind}"
    items = list(range(len(values)))
    if kind == "csv":
        lines = [f"1,{item},{value}" for item, value in zip(items, values, strict=True)]
        path.write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    else:
        pq.write_table(pa.table({"user_id": [1] * len(items), "item_id": items, "timestamp": values}), path)
    with duckdb.connect() as con:
        logs.load_interactions(con, open_source(con, str(path)), PrepareConfig(**options), "int64", "int64")
        rows = con.execute("SELECT item_id, time FROM log ORDER BY nth").fetchall()
    assert [row[0] for row in rows] == items
    return [row[1] for row in rows]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_whole_numbers_in_a_unit(tmp_path: Path, kind: str, unit: str, per_second: int) -> None:
    values = [START * per_second + k for k in range(3)]
    assert times(tmp_path, values, kind, time_unit=unit) == [value * (10**9 // per_second) for value in values]


def test_precision_of_order_and_time(tmp_path: Path) -> None:
    quarter = [START, START + 0.25, START + 0.5]
    want = [START * 10**9 + k * 250_000_000 for k in range(3)]
    assert times(tmp_path, quarter) == want
    assert times(tmp_path, [str(value) for value in quarter], "csv") == want
    # A nanosecond apart: ties, were they read as doubles or as microseconds.
    close = [START * 10**9 + k for k in range(8)]
    assert times(tmp_path, [f"{START}.{k:09d}" for k in range(8)], "csv") == close
    stamps = pd.to_datetime(pd.Series(close))
    assert times(tmp_path, pa.array(stamps)) == close
    assert times(tmp_path, pa.array(stamps.dt.tz_localize("UTC"))) == close
    assert times(tmp_path, stamps.astype(str), "csv") == close
    assert times(tmp_path, pa.array([2**63 + k for k in range(8)], pa.uint64()), time_column="") == [None] * 8
    assert times(tmp_path, [str(2**63 + k) for k in range(8)], "csv", time_column="") == [None] * 8


def test_text_with_an_offset_is_the_instant_it_names(tmp_path: Path) -> None:
    texts = ["2023-11-14T23:13:20+01:00", "2023-11-14T22:13:21Z", "2023-11-14 22:13:22"]
    assert times(tmp_path, texts, "csv") == [(START + k) * 10**9 for k in range(3)]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("values", "options", "pattern"),
    [
        ([START, START * 1000], {}, "column 'timestamp' holds 1700000000000, outside 1970 to 2100 as a time in s"),
        ([START * 1000], {}, "ms would fit"),
        ([START * 10**6], {"time_unit": "ms"}, "us would fit"),
        ([START * 10**9 + 0.5], {}, "ns would fit"),
        ([-1], {}, "column 'timestamp' holds -1, outside 1970 to 2100"),
        ([float("inf")], {}, "column 'timestamp' holds inf"),
        ([float("nan"), 1.5], {}, "column 'timestamp' is NaN in 1 of 2 rows"),
        (["1969-12-31", "2020-01-01"], {}, "column 'timestamp' (holds 1969-12-31, outside 1970 to 2100;|is text)"),
        (["2020-01-01", "3020-01-01 00:00:00"], {}, "column 'timestamp' (holds 3020-01-01 00:00:00, outside|is text)"),
        ([1, 2], {"time_column": "when"}, "no column 'when'"),
    ],
)
def test_no_times_are_refused_by_name(
    tmp_path: Path, kind: str, values: list[Any], options: dict[str, Any], pattern: str
) -> None:
    with pytest.raises(UserError, match=rf"log.{kind}: .*{pattern}") as refused:
        times(tmp_path, values, kind, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_not_a_number_is_no_place_in_an_order(kind: str, tmp_path: Path) -> None:
    """Also where other rows of a Parquet file have numbers: its statistics tell of those alone."""
    with pytest.raises(UserError, match=rf"log.{kind}: column 'timestamp' is NaN in 1 of 4 rows"):
        times(tmp_path, [0.0, float("nan"), 1.0, 2.0], kind, time_column="")
    assert times(tmp_path, [0.0, 1.0, 2.0], kind, time_column="") == [None] * 3


def test_position_orders_and_the_time_beside_it_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = pd.DataFrame({"user_id": 1, "item_id": range(6), "position": range(6)})
    log["timestamp"] = [START, START + 2, START + 1, START + 3, START + 3, START + 9]
    manifest = prepare(*save(tmp_path, log), tmp_path / "data", PrepareConfig())
    assert sequences(tmp_path / "data") == {1: list(range(6))}
    assert (manifest.settings["order_column"], manifest.settings["time_column"]) == ("position", "timestamp")
    assert manifest.clicks["backward"] == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "ordered by 'position', 16.67% of the clicks have an earlier 'timestamp' than the user's click" in line
    assert "by position; time is timestamp" in summary(manifest, Path("data"), 1.0)
    # Without a time, or with one that is told to be none.
    plain = prepare(*save(tmp_path, log.assign(timestamp=None)), tmp_path / "plain", PrepareConfig())
    assert plain.settings["time_column"] == ""
    assert "by position; no time" in summary(plain, Path("plain"), 1.0)
    wrong, _ = save(tmp_path, log.assign(timestamp=-5))
    with pytest.raises(UserError, match="holds -5"):
        prepare(wrong, None, tmp_path / "refused", PrepareConfig())
    ignored = prepare(wrong, None, tmp_path / "ignored", PrepareConfig(time_column=""))
    assert ignored.splits == plain.splits
    assert sequences(tmp_path / "ignored") == sequences(tmp_path / "plain") == sequences(tmp_path / "data")
    assert (manifest.times, plain.times, ignored.times) == (True, False, False)
    assert [second for _, second in timed(tmp_path / "data")[1]] == log.timestamp.tolist()
    assert "warning" not in capsys.readouterr().err
    # recommend reads what prepare read, in the order of position.
    pd.DataFrame({"user_id": [1]}).to_parquet(tmp_path / "new.parquet")
    raw = read_raw_users(tmp_path / "new.parquet", Path(wrong), tmp_path / "ignored", ignored)
    item = pd.read_parquet(tmp_path / "ignored" / "items.parquet").item_id.to_numpy()
    assert item[np.asarray(raw.all.items)].tolist() == list(range(6))


def timed(out: Path) -> dict[int, list[tuple[int, int]]]:
    """Raw user → (raw item, seconds) of each click in order, of all splits; and that the times are int64 lists."""
    manifest = load_manifest(out)
    user = pd.read_parquet(out / "users.parquet").user_id.to_numpy()
    item = pd.read_parquet(out / "items.parquet").item_id.to_numpy()
    found = {}
    for frame in (read_split(out, manifest, split) for split in manifest.splits):
        for row in frame.to_dict("records"):
            assert row["times"].dtype == np.int64
            found[user[row["user"]]] = list(zip(item[row["items"]].tolist(), row["times"].tolist(), strict=True))
    return found


def zoned(seconds: pd.Series, zone: str | None, nanoseconds: int = 0) -> pd.Series:
    stamps = pd.to_datetime(seconds * 10**9 + nanoseconds, utc=True)
    return stamps.dt.tz_localize(None) if zone is None else stamps.dt.tz_convert(zone)


Dress = Callable[[pd.Series], pd.Series]
DRESSES: dict[str, tuple[str, Dress, dict[str, Any]]] = {
    f"{unit} in {kind}": (kind, functools.partial(lambda n, s: s * n + n - 1, per_second), {"time_unit": unit})
    for unit, per_second in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9))
    for kind in ("parquet", "csv")
} | {
    "fractions in parquet": ("parquet", lambda s: s + 0.9375, {}),
    "fractions in csv": ("csv", lambda s: s.astype(str) + ".999999999", {}),
    "fractions of ms": ("parquet", lambda s: s * 1000.0 + 999.5, {"time_unit": "ms"}),
    "timestamps": ("parquet", lambda s: zoned(s, None, 999_999_999), {}),
    "timestamps of ms": ("parquet", lambda s: zoned(s, None, 999_000_000).astype("datetime64[ms]"), {}),
    "timestamps in UTC": ("parquet", lambda s: zoned(s, "UTC", 999_999_999), {}),
    "timestamps in a zone": ("parquet", lambda s: zoned(s, "America/New_York", 5), {}),
    "timestamps as text": ("csv", lambda s: zoned(s, None, 999_999_000).astype(str), {}),
    "timestamps with an offset as text": ("csv", lambda s: zoned(s, "Asia/Kolkata").astype(str), {}),
}


@pytest.mark.parametrize("dress", DRESSES)
def test_each_click_keeps_its_second(tmp_path: Path, dress: str) -> None:
    """Beside its item, whatever orders the clicks and is cut from them; seconds are rounded down."""
    kind, dressed, options = DRESSES[dress]
    log, _ = make_log()
    seconds = START + log.timestamp * 86_400 * 9 + log.index % 61  # of almost a year, summer time in it
    log["position"] = np.random.default_rng(1).permutation(len(log))
    config = PrepareConfig(simulate_cold=0.4, min_item_count=4, users_per_member=7, members_per_shard=2, **options)
    manifest = prepare(*save(tmp_path, log.assign(timestamp=dressed(seconds)), kind=kind), tmp_path / "data", config)
    assert manifest.times
    kept = log.assign(second=seconds)[log.groupby("item_id").item_id.transform("size") >= 4]
    expected = {
        user: list(zip(clicks.item_id, clicks.second, strict=True))
        for user, clicks in kept.sort_values("position").groupby("user_id")
    }
    found = timed(tmp_path / "data")
    assert len(found) == len(expected) > 100
    cut = [user for user, clicks in found.items() if len(clicks) < len(expected[user])]
    assert len(cut) > 20
    for user, clicks in found.items():
        assert clicks == expected[user][: 9 if user in cut else None]


@pytest.mark.parametrize("option", [None, "exact", "consecutive"])
def test_tied_clicks_keep_their_times(tmp_path: Path, option: Any) -> None:
    """Nine clicks in three seconds each, tied to the second or, told apart by their milliseconds, not."""
    log = pd.DataFrame({"user_id": np.repeat(range(40), 9), "item_id": np.random.default_rng(0).integers(0, 4, 360)})
    nth = np.tile(range(9), 40)
    for name, milliseconds in (("tied", 0), ("apart", nth % 3 * 300)):
        stamped = log.assign(timestamp=(START + nth // 3) * 1000 + milliseconds)
        config = PrepareConfig(time_unit="ms", deduplicate=option)
        prepare(*save(tmp_path, stamped.sample(frac=1, random_state=1)), tmp_path / name, config)
        second_of = stamped.assign(second=stamped.timestamp // 1000).groupby("user_id")
        for user, clicks in timed(tmp_path / name).items():
            mine = second_of.get_group(user)
            rest = list(zip(mine.item_id, mine.second, strict=True))
            if option is None:
                assert sorted(clicks) == sorted(rest)
                assert name == "tied" or clicks == rest
            assert set(clicks) <= set(rest)
            assert [second for _, second in clicks] == sorted(second for _, second in clicks)


def test_a_log_without_times_or_with_some_keeps_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = pd.DataFrame({"user_id": 1, "item_id": [0, 1, 2, 2, 1], "position": range(5)})
    log["timestamp"] = [np.nan, START + 1.0, START + 2.0, START + 3.0, START + 4.0]
    plain = prepare(*save(tmp_path, log.drop(columns="timestamp")), tmp_path / "plain", PrepareConfig())
    assert not plain.times
    assert "timestamp" not in capsys.readouterr().err
    some = prepare(*save(tmp_path, log), tmp_path / "some", PrepareConfig())
    assert not some.times
    assert some.clicks["untimed"] == 1
    assert "position; time is timestamp (if numbers, in s), not kept" in summary(some, Path("some"), 1.0)
    warned = [line for line in capsys.readouterr().err.splitlines() if "timestamp" in line]
    assert len(warned) == 1
    assert "column 'timestamp' is null for 1 of 5 clicks, so that none keeps its time" in warned[0]
    (tune_train,) = some.split("tune-train").shards
    assert (tmp_path / "plain" / tune_train.path).read_bytes() == (tmp_path / "some" / tune_train.path).read_bytes()
    assert "times" not in read_split(tmp_path / "some", some, "tune-train").columns
    # The click without one is left out with its rare item; all others have theirs.
    rest = prepare(*save(tmp_path, log), tmp_path / "rest", PrepareConfig(min_item_count=2))
    assert rest.times
    assert rest.clicks["untimed"] == 1
    assert "position; time is timestamp (if numbers, in s), kept" in summary(rest, "rest", 1.0)
    assert timed(tmp_path / "rest") == {1: [(1, START + 1), (2, START + 2), (2, START + 3), (1, START + 4)]}
    assert "timestamp" not in capsys.readouterr().err
