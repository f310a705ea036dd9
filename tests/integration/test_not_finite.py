"""A loss that is no number ends a command: one line, and nothing is written after it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ppr_dist.checkpoint.position import checkpoints
from tests.commands import run_command
from tests.integration.conftest import TINY


def test_a_learning_rate_that_explodes(catalogue: Path, tmp_path: Path) -> None:
    """The first update makes parameters of 1e30, and the second step's products are beyond float32."""
    run = tmp_path / "run"
    every_step = ("--train.checkpoint_every", 1, "--train.keep_checkpoints", 9, "--logging.progress", "false")
    options = ("--data", catalogue, "--run-dir", run, *TINY, *every_step, "--train.lr", 1e30)
    done = run_command("pretrain", *options, world_size=2, end_with_first=True)
    assert done.codes[0] == 2, done
    (line,) = done.lines
    users = r"of users (\d+, ){4}\d+ and \d+ more: .*/run/not_finite.json"
    last = "no checkpoint was written after it, the last is step-00000001"
    assert re.fullmatch(
        rf"ppr_dist: error: step 2: loss nan, gradient norm nan \(rank 0, 1\), {users}; {last}", line
    ), done
    assert [path.name for path in checkpoints(run)] == ["step-00000001"]
    assert all(rank["users"] for rank in json.loads((run / "not_finite.json").read_text()))
