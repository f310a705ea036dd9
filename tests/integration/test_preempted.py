"""A run that is told to stop and goes on ends as one that was never told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from ppr_dist.checkpoint.position import checkpoint_of, checkpoints
from tests.commands import run_command, succeed
from tests.integration.conftest import TINY
from tests.oracle import tensors

STEPS = 120


def test_a_signal_on_one_rank_stops_and_saves_and_the_run_goes_on(catalogue: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    train = ("--data", catalogue, *TINY, "--train.epochs", STEPS, "--train.max_steps", STEPS, "--train.log_every", 1)
    told = run_command("tests.signalled", "SIGUSR1", run / "metrics.jsonl", *train, "--run-dir", run, world_size=2)
    assert told.codes == [75, 75], told
    notice = json.loads((run / "preempted").read_text())
    step = notice["step"]
    assert notice["signal"] == "SIGUSR1"
    assert 3 < step < STEPS
    assert checkpoints(run) == [checkpoint_of(run, step)]
    (line,) = [line for line in told.lines if line.startswith("ppr_dist: ")]
    assert re.fullmatch(rf"ppr_dist: SIGUSR1: stopped after step {step}, .*; --resume goes on", line)

    succeed("pretrain", *train, "--run-dir", run, "--resume", world_size=2)
    assert not (run / "preempted").exists()
    succeed("pretrain", *train, "--run-dir", whole, world_size=2)
    found, want = tensors(run), tensors(whole)
    assert found.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
