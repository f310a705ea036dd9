"""A rank that hangs ends the run, and its log and those of the others say where."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from tests.commands import run_command


@pytest.mark.parametrize(
    "kind", ["stopped", "asleep", pytest.param("holding the interpreter", marks=pytest.mark.exhaustive)]
)
def test_a_rank_that_hangs_ends_the_run(kind: str, tmp_path: Path) -> None:
    done = run_command("tests.hanging", kind, tmp_path, world_size=2, end_with_first=True)
    # What is stopped or holds the interpreter cannot end itself: the launcher ends it, once the other one has ended.
    statuses = (3, 4) if kind == "asleep" else (4,)
    assert any(code in statuses for code in done.codes), done
    stacks = [re.findall(r'File ".*/tests/hanging.py", line \d+ in (\w+)', text) for text in done.err]
    assert "main" in stacks[0], done
    assert ("stop" in stacks[1]) == (kind != "stopped"), done
    said = r"ppr_dist: error \(rank [01]\): nothing done for 0.0333333 minutes \(train.hang_minutes\); .* in (.*)"
    places = [found for line in done.lines for found in re.findall(said, line)]
    assert places, done
    for place in places:
        entries = pickle.loads(Path(place).read_bytes())["entries"]
        assert "gloo:all_reduce" in {entry["profiling_name"] for entry in entries}


def test_steps_in_time_end_nothing(tmp_path: Path) -> None:
    done = run_command("tests.hanging", "none", tmp_path, world_size=2)
    assert done.codes == [0, 0], done
    assert not any(done.err), done
