"""One person, one profile: whatever file, type or time zone the values come in, ``recommend`` reads as ``prepare``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
from ppr_dist.errors import UserError
from tests.click_logs import read_split, save
from tests.served import Served, read_raw_users

USERS = 24
NUMBER = np.arange(USERS)
TIME = pd.Timestamp("2024-03-30 22:30", tz="UTC") + pd.to_timedelta(NUMBER % 4 * 45, unit="min")
LOG = pd.DataFrame({"user_id": NUMBER.repeat(2), "item_id": NUMBER.repeat(2) % 5, "position": np.arange(2 * USERS)})
WITH_GAPS = np.where(NUMBER % 5 == 0, np.nan, NUMBER % 3)
DRESSES: dict[str, list[pd.Series]] = {
    "boolean": [
        pd.Series(NUMBER % 2 == 0),
        pd.Series(np.where(NUMBER % 2 == 0, "TRUE", "false")),
        pd.Series(NUMBER % 2 == 0).astype("string"),
        pd.Series(NUMBER % 2 == 0).astype("float"),
    ],
    "zero or one": [
        pd.Series((NUMBER % 2 == 0).astype("int64")),
        pd.Series(NUMBER % 2 == 0),
        pd.Series(NUMBER % 2 == 0).astype("string"),
    ],
    "date": [
        pd.Series(pd.Timestamp("2024-01-30") + pd.to_timedelta(NUMBER % 3, unit="D")),
        pd.Series(pd.Timestamp("2024-01-30", tz="UTC") + pd.to_timedelta(NUMBER % 3, unit="D")),
        pd.Series((pd.Timestamp("2024-01-30") + pd.to_timedelta(NUMBER % 3, unit="D")).date),
        pd.Series((pd.Timestamp("2024-01-30") + pd.to_timedelta(NUMBER % 3, unit="D")).strftime("%Y-%m-%d 00:00:00")),
    ],
    "time": [
        pd.Series(TIME),
        pd.Series(TIME.tz_convert("Asia/Tokyo")),
        pd.Series(TIME.tz_localize(None)),
        pd.Series(TIME.tz_localize(None).astype("datetime64[ns]")),
        pd.Series(TIME.tz_convert("Europe/Oslo").map(str)),
    ],
    "integer": [
        pd.Series(WITH_GAPS).astype("Int64"),
        pd.Series(WITH_GAPS),
        pd.Series(WITH_GAPS).astype("Int8"),
        pd.Series(WITH_GAPS).astype("Int64").astype("string"),
        pd.Series([None if np.isnan(x) else f"{x:.1f}" for x in WITH_GAPS]),
    ],
    "long": [  # 20 digits: beyond int64
        pd.Series([f"1000000000000000000{n % 3}" for n in NUMBER]),
        pd.Series([10**19 + int(n) % 3 for n in NUMBER], dtype="uint64"),
    ],
    "code": [pd.Series([["007", "7", "7.0", "1e3", None][n % 5] for n in NUMBER])],
    "number": [
        pd.Series(WITH_GAPS),
        pd.Series(WITH_GAPS).astype("Float32"),
        pd.Series([None if np.isnan(x) else f"{x:.2f}" for x in WITH_GAPS]),
    ],
    "fraction": [  # as doubles, 0.1 and 0.7 of 32 bits lie on either side of the edges
        pd.Series((NUMBER % 11) / 10),
        pd.Series((NUMBER % 11) / 10).astype("float32"),
        pd.Series([f"{n % 11 / 10:.3e}" for n in NUMBER]),
    ],
}
BUCKETS: dict[str, Any] = {"number": {"x": [1.0, 2.0]}, "fraction": {"x": 5}}
"""Columns that say the same, by what they say."""


def read(folder: Path, data: Path, column: pd.Series, kind: str) -> Served:
    _, users = save(folder, LOG, pd.DataFrame({"user_id": NUMBER, "x": column}), kind)
    return read_raw_users(Path(str(users)), None, data, load_manifest(data))


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("name", DRESSES)
def test_the_same_values_in_any_dress(name: str, kind: str, tmp_path: Path) -> None:
    buckets = BUCKETS.get(name, {})
    prepare(
        *save(tmp_path, LOG, pd.DataFrame({"user_id": NUMBER, "x": DRESSES[name][0]}), kind),
        tmp_path / "data",
        PrepareConfig(buckets=buckets),
    )
    manifest = load_manifest(tmp_path / "data")
    ids = pd.read_parquet(tmp_path / "data" / "users.parquet").user_id.to_numpy()
    frame = pd.concat([read_split(tmp_path / "data", manifest, split) for split in manifest.splits])
    trained = dict(zip(ids[frame.user.to_numpy(dtype=np.int64)], frame.x, strict=True))
    expected = [trained[user] for user in NUMBER]
    distinct = len(set(expected) - {0})
    assert manifest.attributes[0].cardinality == distinct + 1 >= 3
    for column in DRESSES[name]:
        for served in ("parquet", "csv"):
            raw = read(tmp_path, tmp_path / "data", column, served)
            assert raw.all.attributes.tolist() == [expected], (column.dtype, served)
            assert raw.unknown_values == {"x": 0}
            assert raw.values == {"x": sum(value > 0 for value in expected)}
        # Prepared from another dress it is the same catalogue.
        users = pd.DataFrame({"user_id": NUMBER, "x": column})
        other = tmp_path / "other"
        again = prepare(*save(tmp_path, LOG, users), other, PrepareConfig(buckets=buckets), overwrite=True)
        dotted = name == "integer" and isinstance(column[1], str) and "." in column[1]  # text in Parquet is text
        if not dotted and name != "zero or one" and (name, column.dtype) != ("boolean", float):  # or an integer
            assert again.attributes == manifest.attributes, column.dtype


@pytest.mark.parametrize("stored", [pa.float64(), pa.float32()], ids=str)
@pytest.mark.parametrize("buckets", [{}, {"x": [1.0]}, {"x": 2}], ids=str)
def test_what_is_not_a_number_is_unknown(stored: pa.DataType, buckets: dict[str, Any], tmp_path: Path) -> None:
    """As NaN in the file and not null, to which pandas turns it: Parquet's statistics do not tell of it."""
    log, _ = save(tmp_path, LOG)
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": NUMBER, "x": pa.array(WITH_GAPS, stored)}), path)
    assert pq.ParquetFile(path).metadata.row_group(0).column(1).statistics.null_count == 0
    manifest = prepare(log, str(path), tmp_path / "data", PrepareConfig(buckets=buckets))
    raw = read_raw_users(path, None, tmp_path / "data", manifest)
    ids = pd.read_parquet(tmp_path / "data" / "users.parquet").user_id.to_numpy()
    frame = pd.concat([read_split(tmp_path / "data", manifest, split) for split in manifest.splits])
    trained = dict(zip(ids[frame.user.to_numpy(dtype=np.int64)], frame.x, strict=True))
    assert raw.all.attributes.tolist() == [[trained[user] for user in NUMBER]]
    assert [trained[user] == 0 for user in NUMBER] == np.isnan(WITH_GAPS).tolist()


def test_time_zones_do_not_matter(tmp_path: Path) -> None:
    users = pd.DataFrame({"user_id": NUMBER, "x": TIME.tz_convert("Asia/Tokyo"), "day": TIME.tz_convert("Asia/Tokyo")})
    paths = save(tmp_path, LOG, users)
    program = (
        "import sys, json; from pathlib import Path; from ppr_dist.data.prepare.pipeline import prepare;"
        "from ppr_dist.data.prepare.config import PrepareConfig; from tests.served import read_raw_users;"
        "log, users, out = sys.argv[1:];"
        "manifest = prepare(log, users, Path(out), PrepareConfig(), overwrite=True);"
        "print(json.dumps([manifest.fingerprint, read_raw_users(Path(users), None, Path(out), manifest)"
        ".all.attributes.tolist()]))"
    )
    said = []
    for zone in ("America/New_York", "Asia/Kathmandu"):
        words = [sys.executable, "-c", program, *map(str, paths), str(tmp_path / "data")]
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "TZ": zone}
        )
        said.append(json.loads(done.stdout))
        values = pd.read_parquet(tmp_path / "data" / "attributes.parquet").value
        assert values[0] == "2024-03-30 22:30:00"
    assert said[0] == said[1]


def test_values_that_are_not_known_are_counted(tmp_path: Path) -> None:
    users = pd.DataFrame({"user_id": NUMBER, "x": np.where(NUMBER % 2, "a", "b"), "age": NUMBER % 7})
    prepare(*save(tmp_path, LOG, users), tmp_path / "data", PrepareConfig(buckets={"age": 3}))
    users["x"] = ["a", "c", None, ""] * (USERS // 4)
    users["age"] = None
    _, path = save(tmp_path, LOG, users)
    raw = read_raw_users(Path(str(path)), None, tmp_path / "data", load_manifest(tmp_path / "data"))
    assert raw.values == {"x": USERS // 2, "age": 0}
    assert raw.unknown_values == {"x": USERS // 4, "age": 0}


def test_infinity_is_no_number_to_serve(tmp_path: Path) -> None:
    users = pd.DataFrame({"user_id": NUMBER, "x": NUMBER / 2})
    prepare(*save(tmp_path, LOG, users), tmp_path / "data", PrepareConfig(buckets={"x": 3}))
    for kind in ("parquet", "csv"):
        with pytest.raises(UserError, match=r"users\.\w+: column 'x' holds '-?inf', which is not a finite number"):
            read(tmp_path, tmp_path / "data", pd.Series(np.where(NUMBER == 3, -np.inf, NUMBER)), kind)
