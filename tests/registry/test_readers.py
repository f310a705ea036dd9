"""What holds of every reader of a public data set, a new one unasked: it needs a small example in ``PUBLISHED``."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.readers import READERS
from ppr_dist.data.readers.convert import SUMMARY, convert
from ppr_dist.errors import UserError
from tests.click_logs import sequences
from tests.published_data import PUBLISHED

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "data.md"
each_reader = pytest.mark.parametrize("name", READERS)


def rows(file: Path) -> list[tuple[Any, ...]]:
    table = pq.read_table(file)
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=lambda row: row[0])


def run(name: str, raw: Path, out: Path) -> None:
    convert(name, READERS[name], raw, out, memory_limit="1GB")


def refusal(name: str, raw: Path, tmp_path: Path) -> str:
    """The one line that ``raw`` is refused with; says where the data is published, and leaves nothing behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as refused:
        run(name, raw, tmp_path / "log")
    said = str(refused.value)
    assert "\n" not in said
    assert said.endswith(f"{READERS[name].title} is published at {READERS[name].page} ({READERS[name].terms})")
    assert sorted(tmp_path.rglob("*")) == before
    return said


def test_every_reader_has_an_example() -> None:
    assert set(PUBLISHED) == set(READERS)


@each_reader
def test_what_is_read_is_what_prepare_gets(name: str, tmp_path: Path) -> None:
    example = PUBLISHED[name]
    log, data = tmp_path / "log", tmp_path / "data"
    run(name, example.write(tmp_path / "raw"), log)
    users, items = log / "users.parquet", log / "items.parquet"
    assert users.exists() == bool(example.users)
    assert items.exists() == bool(example.items)
    assert rows(users) == example.users if example.users else True
    assert rows(items) == example.items if example.items else True
    profiles = str(users) if example.users else None
    prepare(str(log / "interactions.parquet"), profiles, data, PrepareConfig(min_attribute_count=0))
    assert sequences(data) == example.clicks
    said = json.loads((log / SUMMARY).read_text())
    assert said["reader"] == name
    assert said["clicks"] == sum(map(len, example.clicks.values()))
    assert said["users"] == len(example.clicks)
    assert not [left for left in log.iterdir() if left.name.startswith(".")]


@each_reader
def test_the_publishers_zip_is_read_like_its_folder(name: str, tmp_path: Path) -> None:
    raw = PUBLISHED[name].write(tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for file in sorted(raw.rglob("*")):
            archive.write(file, file.relative_to(raw))
        archive.writestr(f"__MACOSX/._{Path(PUBLISHED[name].log).name}", "no text")
    run(name, raw, tmp_path / "folder")
    run(name, tmp_path / "raw.zip", tmp_path / "zip")
    tables = sorted(file.name for file in (tmp_path / "folder").glob("*.parquet"))
    assert tables == sorted(file.name for file in (tmp_path / "zip").glob("*.parquet"))
    for table in tables:
        read = [pq.read_table(tmp_path / kind / table) for kind in ("folder", "zip")]
        if "image" in read[0].column_names and name in ("ninerec", "pixelrec"):
            read = [each.drop_columns("image") for each in read]  # pictures have a path where they are unpacked
        assert read[0].equals(read[1])


@each_reader
def test_every_file_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    example = PUBLISHED[name]
    raw = example.write(tmp_path / "raw")
    (raw / example.log).unlink()
    if name == "kuairand":  # its log comes in parts
        next(raw.rglob("log_random*")).unlink()
    if name == "mind":
        next(raw.rglob("behaviors.tsv")).unlink()
    assert str(raw) in refusal(name, raw, tmp_path)
    assert "no such file or folder" in refusal(name, tmp_path / "absent", tmp_path)


@each_reader
@pytest.mark.parametrize("last", ["torn", "binary"])
def test_a_line_that_is_none_is_named(name: str, last: str, tmp_path: Path) -> None:
    example = PUBLISHED[name]
    raw = example.write(tmp_path / "raw")
    with (raw / example.log).open("ab") as log:
        log.write(example.torn.encode() if last == "torn" else bytes(np.arange(255, 20, -1, np.uint8)) + b"\n")
    if name == "ml-1m" and last == "torn":
        return run(name, raw, tmp_path / "log")  # a number that was cut off is a number
    said = refusal(name, raw, tmp_path)
    assert Path(example.log).name in said or "clicks have no" in said or "strptime" in said
    return None


@each_reader
def test_an_empty_log_is_refused(name: str, tmp_path: Path) -> None:
    example = PUBLISHED[name]
    kept = {
        path: "" if Path(path).name == Path(example.log).name or "log_" in path else text
        for path, text in example.files.items()
    }
    refusal(name, dataclasses.replace(example, files=kept).write(tmp_path / "raw"), tmp_path)


@each_reader
def test_a_replaced_folder_is_of_the_new_data_alone(name: str, tmp_path: Path) -> None:
    raw = PUBLISHED[name].write(tmp_path / "raw")
    run(name, raw, tmp_path / "log")
    with pytest.raises(UserError, match="not empty; name another folder or give --overwrite"):
        run(name, raw, tmp_path / "log")
    (tmp_path / "log" / "interactions.parquet").write_text("old")
    convert(name, READERS[name], raw, tmp_path / "log", overwrite=True)
    assert pq.read_table(tmp_path / "log" / "interactions.parquet").num_rows


@each_reader
def test_the_document_has_a_row_for_it(name: str) -> None:
    (row,) = [line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| `{name}`")]
    assert READERS[name].page in row
