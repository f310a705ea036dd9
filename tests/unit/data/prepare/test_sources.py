"""Which files are read, and how columns are told apart."""

from __future__ import annotations

import decimal
import gzip
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppr_dist.data.manifest import Manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.errors import UserError
from tests.click_logs import save, sequences

CLICKS = pd.DataFrame({"user_id": 1, "item_id": range(3), "position": range(3)})


def write(path: Path, log: pd.DataFrame | pa.Table = CLICKS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        log.to_csv(path, index=False)
    else:
        pq.write_table(log if isinstance(log, pa.Table) else pa.Table.from_pandas(log), path)
    return path


def read(path: Path | str, out: Path, **options: Any) -> Manifest:
    return prepare(str(path), None, out, PrepareConfig(**options), overwrite=out.exists())


def test_temporary_and_hidden_parts_are_passed_over(tmp_path: Path) -> None:
    logs = tmp_path / "_raw" / ".logs"
    write(logs / "day=1" / "part-0.parquet")
    write(logs / "_hour=2" / "part-0.parquet")  # a partition by a column that is called so
    for hidden in ("_temporary/0/part-0", ".part-3/part-0", "day=1/_started-x", "day=1/.part", "day=1/_old/part-0"):
        write(logs / f"{hidden}.parquet")
    out = tmp_path / "data"
    for path, clicks in (
        (logs, 6),  # never the parts of the named folder itself
        (logs / "**" / "*.parquet", 6),
        (logs / "*" / "part-*.parquet", 6),
        (logs / "_temporary" / "0", 3),
        (logs / "_temporary" / "0" / "part-0.parquet", 3),
        (logs / "day=1" / "_started-*.parquet", 3),
        (tmp_path / "_raw" / ".l*" / "day=1" / "part-*.parquet", 3),
    ):
        assert read(path, out).clicks["read"] == clicks, path
    write(logs / "_old" / "_part.parquet")
    with pytest.raises(UserError, match=r"_old: holds no \.parquet or \.csv file"):
        read(logs / "_old", out)


@pytest.mark.parametrize("kind", ["Delta", "Iceberg"])
def test_tables_of_other_formats_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    table = tmp_path / "logs" / "clicks"
    part = write(table / "data" / "part-0.parquet")
    log = table / ("_delta_log/00000.json" if kind == "Delta" else "metadata/v1.metadata.json")
    log.parent.mkdir()
    log.write_text("{}")
    for path in (table, tmp_path / "logs", table / "*" / "*.parquet", tmp_path / "**" / "*.parquet"):
        with pytest.raises(UserError, match=f"logs/clicks: is a table of {kind}") as refused:
            read(path, tmp_path / "out")
        assert "\n" not in str(refused.value)
    assert read(part, tmp_path / "out").clicks["read"] == 3


def test_ids_of_other_types(tmp_path: Path) -> None:
    names = [uuid.UUID(int=k) for k in range(3)]
    storage = pa.array([name.bytes for name in names], pa.binary(16))
    for item, want in (
        (pa.array([decimal.Decimal(2**63 - 1 - k) for k in range(3)], pa.decimal128(38, 0)), "int64"),
        (pa.array([2**63 - 1, 5, 6], pa.uint64()), "int64"),
        (pa.ExtensionArray.from_storage(pa.uuid(), storage), "string"),
    ):
        log = pa.table({"user_id": [1] * 3, "item_id": item, "position": range(3)})
        manifest = read(write(tmp_path / "log.parquet", log), tmp_path / "data")
        assert manifest.item_id_type == want
        values = [str(v) if want == "string" else int(v) for v in (names if want == "string" else item.to_pylist())]
        assert sequences(tmp_path / "data") == {1: values}
    for wide in (
        pa.array([1, 2, 2**63], pa.uint64()),
        pa.array([decimal.Decimal(2**63)] * 3, pa.decimal128(38, 0)),
    ):
        log = pa.table({"user_id": wide, "item_id": [1] * 3, "position": range(3)})
        with pytest.raises(UserError, match=r"log\.parquet: column 'user_id' holds 9223372036854775808, beyond int64"):
            read(write(tmp_path / "log.parquet", log), tmp_path / "refused")
    # Text may be of any length.
    text = CLICKS.assign(item_id=["7", str(2**63), str(10**30)])
    assert read(write(tmp_path / "log.csv", text), tmp_path / "data").item_id_type == "string"
    assert sequences(tmp_path / "data") == {1: ["7", str(2**63), str(10**30)]}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_columns_that_differ_in_case_alone(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"log.{kind}", CLICKS.assign(Position=0))
    with pytest.raises(UserError, match=f"log.{kind}: columns 'position' and 'Position' differ in case alone"):
        read(path, tmp_path / "data")


def test_a_compressed_file_in_capitals(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "LOG.CSV.GZ", "wt") as file:
        CLICKS.to_csv(file, index=False)
    assert read(tmp_path / "LOG.CSV.GZ", tmp_path / "data").clicks["read"] == 3


def test_users_who_are_lost_and_a_log_without_cold_users_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = pd.DataFrame({"user_id": [1] * 12 + [2] * 12 + [3], "item_id": [*range(12), *range(12), 99]})
    log["position"] = range(25)
    paths = save(tmp_path, log)
    prepare(*paths, tmp_path / "data", PrepareConfig(min_item_count=2))
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 2
    assert "min_item_count 2 leaves 1 users without a click" in warnings[0]
    assert "at least 10 clicks, so there are no cold users to tune on; --simulate-cold 0.2" in warnings[1]
    for options in ({}, {"min_item_count": 2, "simulate_cold": 0.5}):
        prepare(*paths, tmp_path / "data", PrepareConfig(**options), overwrite=True)  # type: ignore[arg-type]
        assert "no cold users" not in capsys.readouterr().err
