"""The launcher, real ranks, real signals: what ends a job ends all of it, in a line, and leaves the run free."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.commands import run_command, succeed
from tests.integration.conftest import TINY
from tests.integration.test_methods import ITEM, of
from tests.oracle import tensors
from tests.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]


PLAIN = ("-m", "torch.distributed.run")
"""torchrun itself."""
OURS = (str(ROOT / "launch" / "torchrun.py"),)


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return True


class Launched:
    """A launcher, as a shell would start it: a process group of its own."""

    def __init__(self, log: Path, launcher: tuple[str, ...], *argv: Any) -> None:
        self.log = log
        words = [sys.executable, *launcher, *map(str, argv)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        with self.log.open("w") as err:
            self.process = subprocess.Popen(
                words, stdout=err, stderr=err, env=environment, cwd=log.parent, start_new_session=True
            )
        self.seen: set[psutil.Process] = set()

    def until(self, happens: Callable[[], bool], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not happens():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def note_processes(self) -> set[psutil.Process]:
        """All that the launcher has started so far, workers and servers of the ranks too."""
        self.seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        return self.seen

    def all_gone(self) -> bool:
        return all(_gone(each) for each in self.seen)

    @property
    def said(self) -> list[str]:
        """What was logged, without progress."""
        return [line for line in self.log.read_text().splitlines() if line and "step" not in line]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    started: list[Launched] = []

    def start(*argv: Any, ranks: int = 2, launcher: tuple[str, ...] = OURS, meet: tuple[str, ...] = ()) -> Launched:
        options = (f"--nproc-per-node={ranks}", *(meet or (f"--master-port={free_port()}",)), "-m")
        started.append(Launched(tmp_path / f"stderr-{len(started)}", launcher, *options, *argv))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.note_processes()
        for process in each.seen:
            if process.is_running():
                process.kill()
        each.process.kill()
        each.process.wait()


def long_training(catalogue: Path, run: Path, *argv: Any) -> tuple[Any, ...]:
    train = ("--data", catalogue, "--run-dir", run, *TINY, "--train.log_every", 1)
    return (*train, "--train.epochs", 100_000, "--train.checkpoint_every", 2, *argv)


def trains(run: Path) -> bool:
    metrics = run / "metrics.jsonl"
    return metrics.is_file() and len(metrics.read_text().splitlines()) > 3


def test_a_killed_launcher_takes_its_ranks_along_and_leaves_the_run_to_the_next(
    catalogue: Path, tmp_path: Path, launch: Callable[..., Launched]
) -> None:
    run = tmp_path / "run"
    job = launch("ppr_dist.pretrain", *long_training(catalogue, run, "--stream.workers", 1), ranks=1)
    job.until(lambda: trains(run))
    (rank,) = psutil.Process(job.process.pid).children()
    assert len(job.note_processes()) >= 3  # its worker, and the server this is forked from

    second = run_command("pretrain", *long_training(catalogue, run, "--resume"))
    assert second.codes == [2], second
    (holder,) = re.findall(
        rf"^ppr_dist: error: {run} is being trained by another process: process (\d+) on \S+, since ", second.err[0]
    )
    assert int(holder) == rank.pid

    job.process.kill()
    job.process.wait()
    job.until(job.all_gone, seconds=10)
    assert "Traceback" not in job.log.read_text()
    again = long_training(catalogue, run, "--resume", "--train.max_minutes", 0.01)
    succeed("pretrain", *again, world_size=1)


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        ("scancel", 143, "ended by SIGTERM"),
        ("ctrl-c", 130, "ended by SIGINT"),
        ("killed rank", 137, r"rank 1 was killed \(SIGKILL; out of memory\?\)"),
    ],
)
def test_an_ending_is_one_line_and_a_status(
    tmp_path: Path, launch: Callable[..., Launched], ending: str, status: int, said: str
) -> None:
    job = launch("tests.waiting")
    job.until(lambda: all((tmp_path / f"rank-{rank}").exists() for rank in range(2)))
    ranks = job.note_processes()
    if ending == "killed rank":
        next(rank for rank in ranks if rank.environ()["RANK"] == "1").kill()
    elif ending == "ctrl-c":
        os.killpg(job.process.pid, signal.SIGINT)  # as the terminal does: ranks have a group of their own
    else:
        job.process.terminate()
    assert job.process.wait(30) == status
    *of_ranks, of_launcher = job.said
    assert re.fullmatch(rf"launch: \S+: {said}", of_launcher)
    assert of_ranks == (["ppr_dist: interrupted"] if ending == "ctrl-c" else [])
    job.until(job.all_gone, seconds=5)


def test_a_refused_input_is_said_by_the_rank_and_again_by_the_launcher(
    launch: Callable[..., Launched],
) -> None:
    job = launch("tests.waiting", "refuse")
    assert job.process.wait(90) == 2
    said = "error: --train.lr: not a number"
    assert len(job.said) == 2, job.said
    assert job.said[0] == f"ppr_dist: {said}"
    assert re.fullmatch(rf"launch: \S+: rank 0 failed with status 2: {said}", job.said[1])


@pytest.mark.exhaustive
def test_four_launchers_train_what_one_process_trains(
    catalogue: Path, tmp_path: Path, launch: Callable[..., Launched]
) -> None:
    """Plain torchrun, a launcher for each of four machines, which meet on loopback.

    Bit for bit what four ranks of one launcher train. One process adds up the same gradients in another order: its
    weights are the same to 2·10^-6, 1/500 of a step of Adam's (seen: 5·10^-7). The keys' bias alone is not, since its
    gradient is 0 and Adam makes steps of what rounding leaves of it.
    """
    lr, steps = 1e-3, 4
    train = ("--data", catalogue, *TINY, "--train.max_steps", steps, "--train.lr", lr)
    four, together, one = (tmp_path / name for name in ("four", "together", "one"))
    meet = ("--nnodes=4", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=four")
    words = ("ppr_dist.pretrain", *train, "--run-dir", four)
    jobs = [launch(*words, ranks=1, launcher=PLAIN, meet=meet) for _ in range(4)]
    for job in jobs:
        assert job.process.wait(240) == 0, job.log.read_text()
    assert sum("pretrain: 4 steps" in job.log.read_text() for job in jobs) == 1
    assert len(json.loads((four / "plan.json").read_text())["ranks"]) == 4
    succeed("pretrain", *train, "--run-dir", together, world_size=4)
    succeed("pretrain", *train, "--run-dir", one)

    found, same, want = (of(tensors(run), "dense.", "tables.") for run in (four, together, one))
    assert found.keys() == same.keys() == want.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], same[name], err_msg=name)
    for name in (ITEM, *(name for name in want if name.startswith("dense.parameter."))):
        apart = np.abs(found[name] - want[name])
        if name.endswith("qkv.bias"):
            dim = len(apart) // 3
            keys, apart = apart[dim : 2 * dim], np.delete(apart, np.s_[dim : 2 * dim])
            assert keys.max() < lr * steps
        assert apart.max() < 2e-6, name
