"""The times of a log: units, precision, what is refused, and what stands beside a position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppr_dist.data.prepare import logs
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.prepared import prepare
from ppr_dist.data.prepare.sources import open_source
from ppr_dist.errors import UserError
from ppr_dist.prepare import summary
from tests.served import read_raw_users
from tests.unit.data.click_logs import save, sequences

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
        ([START * 1000], {}, "--time_unit ms would fit"),
        ([START * 10**6], {"time_unit": "ms"}, "--time_unit us would fit"),
        ([START * 10**9 + 0.5], {}, "--time_unit ns would fit"),
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
    assert "by position; time is timestamp" in summary(manifest, "data", 1.0)
    # Without a time, or with one that is told to be none.
    plain = prepare(*save(tmp_path, log.assign(timestamp=None)), tmp_path / "plain", PrepareConfig())
    assert plain.settings["time_column"] == ""
    assert "by position; no time" in summary(plain, "plain", 1.0)
    wrong, _ = save(tmp_path, log.assign(timestamp=-5))
    with pytest.raises(UserError, match="holds -5"):
        prepare(wrong, None, tmp_path / "refused", PrepareConfig())
    ignored = prepare(wrong, None, tmp_path / "ignored", PrepareConfig(time_column=""))
    assert ignored.splits == plain.splits == manifest.splits
    assert "warning" not in capsys.readouterr().err
    # recommend reads what prepare read, in the order of position.
    pd.DataFrame({"user_id": [1]}).to_parquet(tmp_path / "new.parquet")
    raw = read_raw_users(tmp_path / "new.parquet", Path(wrong), tmp_path / "ignored", ignored)
    item = pd.read_parquet(tmp_path / "ignored" / "items.parquet").item_id.to_numpy()
    assert item[np.asarray(raw.all.items)].tolist() == list(range(6))


def test_clicks_without_a_time_beside_a_position_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = pd.DataFrame({"user_id": 1, "item_id": range(4), "position": range(4)})
    log["timestamp"] = [START + 1.0, np.nan, START + 2.0, START + 3.0]
    manifest = prepare(*save(tmp_path, log), tmp_path / "data", PrepareConfig())
    assert manifest.clicks["untimed"] == 1
    assert "column 'timestamp' is null for 25.0% of the clicks" in capsys.readouterr().err
