"""Small files of a run: all at once, untouched where nothing changes, and damage in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ppr_dist import files
from ppr_dist.errors import UserError


def test_a_file_is_replaced_whole_and_only_where_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    files.replace(path, "one")
    before = path.stat()
    files.replace(path, "one")
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    os.link(path, tmp_path / "held")  # what a reader has open
    files.replace(path, "two")
    assert (path.read_text(), (tmp_path / "held").read_text()) == ("two", "one")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["held", "run.json"]


def test_a_line_that_was_cut_off_does_not_count_and_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    files.append_line(path, {"a": 1})
    files.append_line(path, {"a": 2})
    path.write_bytes(path.read_bytes()[:-3])
    assert files.read_lines(path) == [{"a": 1}]
    files.append_line(path, {"a": 3})
    assert files.read_lines(path) == [{"a": 1}, {"a": 3}]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"a": 3}]
    assert files.read_lines(tmp_path / "absent.jsonl") == []


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is not JSON"):
        files.read_lines(path)
