"""What a run says of itself and of its folder: where it goes on, what it came to, and what is left alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ppr_dist.checkpoint.position import checkpoint_of
from tests.commands import run_command, succeed
from tests.integration.conftest import TINY


def test_a_run_says_where_it_goes_on_and_what_it_came_to(catalogue: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ("pretrain", "--data", catalogue, *TINY, "--run-dir")
    done = succeed(*command, run, "--train.max_steps", 2, "--resume")
    assert done.lines == [f"ppr_dist: --resume: {run} is not there: starting at step 0"]
    said = "pretrain: {} steps?, loss [0-9.]+, {}\n"
    assert re.fullmatch(said.format(2, checkpoint_of(run, 2)), done.out[0]), done

    times = {name: (run / name).stat().st_mtime_ns for name in ("run.json", "plan.json")}
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # as a kill leaves it
    (run / "checkpoints" / ".step-00000009").mkdir()
    done = succeed(*command, run, "--train.max_steps", 3, "--resume")
    first, last = done.out[0].splitlines(keepends=True)
    assert first == f"resumed from step 2: {checkpoint_of(run, 2)}\n"
    assert re.fullmatch(said.format(1, checkpoint_of(run, 3)), last)
    assert times == {name: (run / name).stat().st_mtime_ns for name in times}
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]

    before = (run / "metrics.jsonl").read_bytes()
    done = succeed(*command, run, "--train.max_steps", 3, "--resume")
    assert done.out[0].splitlines()[-1] == f"pretrain: nothing left to do, {checkpoint_of(run, 3)}"
    (run / "metrics.jsonl").write_bytes(b"{\n" + before)
    done = run_command(*command, run, "--train.max_steps", 4, "--resume")
    assert done.codes == [2]
    assert done.lines == [f"ppr_dist: error: {run}/metrics.jsonl: line 1 is not JSON"]

    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    done = succeed(*command, run, "--train.max_steps", 1, "--resume")
    assert done.lines == [f"ppr_dist: --resume: no checkpoint in {run}: starting at step 0"]


def test_a_folder_that_cannot_take_the_results_is_refused_before_the_work(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations.jsonl"))
    (tmp_path / "run" / "evaluations.jsonl").mkdir()  # not even root can append to it
    done = run_command("evaluate", "--run-dir", tmp_path / "run", "--task", "few-shot")
    assert done.codes == [2]
    assert done.lines == [f"ppr_dist: error: {tmp_path}/run/evaluations.jsonl: cannot be written (Is a directory)"]
