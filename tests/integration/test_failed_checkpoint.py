"""A checkpoint that cannot be written: the one before stays, no rank hangs, and the run stops or goes on as told."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ppr_dist.checkpoint.position import checkpoints
from tests.commands import Done, run_command, succeed
from tests.integration.conftest import TINY

SAVES = (*TINY, "--train.epochs", 3, "--train.checkpoint_every", 2, "--train.keep_checkpoints", 99)
LARGE = ("--model.dim", 64)
"""A table of 400 items that takes more than 50 kB."""


@pytest.fixture(scope="module")
def begun(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps and a checkpoint."""
    run = tmp_path_factory.mktemp("begun") / "run"
    succeed("pretrain", "--data", catalogue, "--run-dir", run, *SAVES, *LARGE, "--train.max_steps", 2)
    return run


def train_on_full_disk(data: Path, run: Path, *flags: Any, world_size: int) -> Done:
    """Ends badly, and so does the other rank, by itself or by the launcher."""
    words = ("--data", data, "--run-dir", run, *flags)
    done = run_command("tests.full_disk", *words, world_size=world_size, end_with_first=True)
    assert done.codes[0] == 2
    return done


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("world_size", [0, 2])
def test_it_stops(world_size: int, background: bool, begun: Path, catalogue: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(begun, run)
    flags = (*SAVES, *LARGE, f"--train.async_checkpoint={background}".lower(), "--resume")
    done = train_on_full_disk(catalogue, run, *flags, world_size=world_size)
    (said,) = [line for line in done.err[0].splitlines() if "a checkpoint cannot be written" in line]
    assert re.search("(File too large|a write failed .* MB are free there.*); the last complete checkpoint is", said)
    assert said.endswith(str(checkpoints(run)[0]))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]
    succeed("verify", "--run-dir", run)
    succeed("pretrain", "--data", catalogue, "--run-dir", run, *SAVES, *LARGE, "--resume", world_size=world_size)
    succeed("verify", "--run-dir", run)


def test_it_goes_on_but_not_without_its_last(begun: Path, catalogue: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(begun, run)
    flags = (*SAVES, *LARGE, "--train.on_failed_checkpoint", "continue", "--resume", "--train.log_every", 1)
    done = train_on_full_disk(catalogue, run, *flags, world_size=2)
    warned = [line for line in done.lines if line.endswith("and training goes on")]
    assert len(warned) >= 3
    assert all("a checkpoint cannot be written" in line for line in warned)
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 12
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]


def test_without_the_best_it_does_not_go_on(begun: Path, catalogue: Path, tmp_path: Path) -> None:
    """Later checkpoints would refer to what is not there."""
    run = tmp_path / "run"
    shutil.copytree(begun, run)
    flags = (*SAVES, *LARGE, "--train.on_failed_checkpoint", "continue", "--resume", "--train.eval_every_epochs", 1)
    done = train_on_full_disk(catalogue, run, *flags, world_size=0)
    assert "a checkpoint cannot be written" in done.err[0].splitlines()[-1]
    succeed("evaluate", "--run-dir", run, "--task", "next-item", "--progress", "false")
