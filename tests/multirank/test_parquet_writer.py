"""Data sets that ranks write together: complete or absent, in order, replaced as a whole."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppr_dist import parquet_writer
from ppr_dist.errors import UserError
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parquet_writer import ID_TYPES, PartWriter, data_set
from tests.ranks import run_ranks

ROWS = 23
SCHEMA = pa.schema([("user_id", ID_TYPES["string"]), ("rank", pa.int64())])


def write(context: DistributedContext, out: Path, rows: int = ROWS, end: str = "") -> str:
    """Write this rank's share of ``rows``, a few at a time; return what was refused."""
    parquet_writer.ROW_GROUP, parquet_writer.PART = 3, 7
    try:
        with data_set(out, context) as folder, PartWriter(folder, context, SCHEMA) as writer:
            low, high = (rank * rows // context.world_size for rank in (context.rank, context.rank + 1))
            for start in range(low, high, 2):
                row = np.arange(start, min(start + 2, high))
                writer.write({"rank": row, "user_id": [f"user {n}" for n in row]})
            if end == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if end == "refused":
                raise UserError("something else")
    except UserError as error:
        return str(error)
    return ""


def refusals(context: DistributedContext, outs: list[Path]) -> list[str]:
    return [write(context, out) for out in outs]


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.exhaustive), 3])
def test_the_parts_of_any_number_of_ranks_are_the_same_rows(world_size: int, tmp_path: Path) -> None:
    out = tmp_path / "new" / "r.parquet"
    assert run_ranks(write, world_size, out) == [""] * world_size
    assert len(tree(out)) >= 3
    files = [pq.read_table(out / name, partitioning=None) for name in tree(out)]
    assert all(file.schema == SCHEMA and file.num_rows for file in files)
    table = pa.concat_tables(files)
    assert table.column("rank").to_pylist() == list(range(ROWS))
    assert table.column("user_id").to_pylist() == [f"user {n}" for n in range(ROWS)]
    pd.testing.assert_frame_equal(pd.read_parquet(out), table.to_pandas())
    assert tree(out.parent) == ["r.parquet", *(f"r.parquet/{name}" for name in tree(out))]


def test_no_rows_are_still_a_data_set(tmp_path: Path) -> None:
    run_ranks(write, 2, tmp_path / "r", 0)
    assert pq.read_table(tmp_path / "r").schema == SCHEMA


def in_turn(context: DistributedContext, tmp: Path) -> list[Any]:
    """What each of some attempts said, and what stood there then."""
    out, said = tmp / "r", []
    for rows, end in ((ROWS, "refused"), (5, ""), (4, "refused"), (4, "")):
        refused = write(context, out, rows, end)
        said.append((refused, len(pd.read_parquet(out)) if out.is_dir() else None, tree(tmp)))
    return said


def test_a_failure_leaves_what_was_there_before(tmp_path: Path) -> None:
    said = run_ranks(in_turn, 1, tmp_path)[0]
    failed = "something else"
    assert [(refused, rows) for refused, rows, _ in said] == [(failed, None), ("", 5), (failed, 5), ("", 4)]
    assert said[0][2] == []
    assert not [name for _, _, names in said for name in names if name.startswith(".")]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="did not finish"):
        run_ranks(write, 1, tmp_path / "r", ROWS, "killed", timeout=6)
    assert tree(tmp_path)[0] == ".r.partial"
    run_ranks(write, 1, tmp_path / "r")
    assert tree(tmp_path)[0] == "r"
    # Killed between the two renames that replace a data set: the old one is there again.
    (tmp_path / "r").rename(tmp_path / ".r.old")
    assert run_ranks(write, 1, tmp_path / "r", 4, "refused") == ["something else"]
    assert len(pd.read_parquet(tmp_path / "r")) == ROWS


def test_a_place_that_cannot_be_written_is_refused_on_every_rank(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis.tex").write_text("")
    before = tree(tmp_path)
    wanted = {
        "file": "file: is a file; a data set is written as a folder",
        "file/r": "file/r: cannot be written",
        "others": "others: holds 'thesis.tex', which is no part of a data set",
        "/proc/r": "/proc/r: cannot be written",
        "/proc": "/proc: is a mount point",
    }
    one, two = run_ranks(refusals, 2, [tmp_path / out for out in wanted])
    assert one == two
    for refused, pattern in zip(one, wanted.values(), strict=True):
        assert pattern in refused
        assert "\n" not in refused
    assert tree(tmp_path) == before


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "r").symlink_to(tmp_path / "there", target_is_directory=True)
    run_ranks(write, 1, tmp_path / "r")
    assert (tmp_path / "r").is_symlink()
    assert len(pd.read_parquet(tmp_path / "there")) == ROWS
