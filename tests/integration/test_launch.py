"""torchrun, real ranks and signals: what ends a job ends all of it and leaves the run free; restarts go on with it."""

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

from tests.commands import Done, run_command, succeed
from tests.integration.conftest import TINY
from tests.integration.test_methods import ITEM, of
from tests.oracle import tensors
from tests.ranks import free_port

pytestmark = pytest.mark.timeout(900)  # each wait has a limit of its own
ROOT = Path(__file__).resolve().parents[2]


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return True


class Launched:
    """A launcher, as a shell would start it: a process group of its own."""

    def __init__(self, log: Path, *argv: Any) -> None:
        self.log = log
        words = [sys.executable, "-m", "torch.distributed.run", *map(str, argv)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
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

    def rank(self, rank: int) -> psutil.Process:
        """The process that has this rank now."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if child.environ().get("RANK") == str(rank))

    @property
    def resumed(self) -> int:
        return self.log.read_text().count("resumed from step")

    def all_gone(self) -> bool:
        return all(_gone(each) for each in self.seen)

    @property
    def said(self) -> list[str]:
        """What was logged, without progress."""
        return [line for line in self.log.read_text().splitlines() if line and "step" not in line]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    started: list[Launched] = []

    def start(*argv: Any, ranks: int = 2, meet: tuple[str, ...] = ()) -> Launched:
        options = (f"--nproc-per-node={ranks}", *(meet or (f"--master-port={free_port()}",)), "-m")
        started.append(Launched(tmp_path / f"stderr-{len(started)}", *options, *argv))
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


def logged(run: Path) -> list[int]:
    """Steps in the order in which they were made."""
    lines = (run / "metrics.jsonl").read_text().splitlines() if trains(run) else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [record["step"] for record in records if "loss" in record]


def last_step(run: Path) -> int:
    """Of the log; 0 while it is short, as it is for a moment where a resumed run cuts it back to its checkpoint."""
    return max(logged(run), default=0)


def gets_on(job: Launched, run: Path) -> None:
    """Wait until a run that has just been resumed trains beyond where it was cut, its log cut back meanwhile."""
    last = last_step(run)
    job.until(lambda: last_step(run) > last + 20)


@pytest.mark.exhaustive
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
    job.until(job.all_gone, seconds=30)
    assert "Traceback" not in job.log.read_text()
    again = long_training(catalogue, run, "--resume", "--train.max_minutes", 0.01)
    succeed("pretrain", *again, world_size=1)


@pytest.mark.parametrize("ending", ["ctrl-c", "killed rank"])
def test_what_ends_the_launcher_ends_its_ranks(tmp_path: Path, launch: Callable[..., Launched], ending: str) -> None:
    job = launch("tests.waiting")
    job.until(lambda: all((tmp_path / f"rank-{rank}").exists() for rank in range(2)))
    ranks = job.note_processes()
    if ending == "killed rank":
        next(rank for rank in ranks if rank.environ()["RANK"] == "1").kill()
    else:
        os.killpg(job.process.pid, signal.SIGINT)  # as the terminal does: ranks have a group of their own
    assert job.process.wait(60) != 0
    assert ("ppr_dist: interrupted" in job.said) == (ending == "ctrl-c")
    job.until(job.all_gone, seconds=30)


@pytest.mark.exhaustive  # torchrun waits 30 s for the stopped rank before it kills it
def test_a_stopped_rank_ends_the_job_and_the_other_says_where_it_waited(
    catalogue: Path, tmp_path: Path, launch: Callable[..., Launched]
) -> None:
    run = tmp_path / "run"
    job = launch("ppr_dist.pretrain", *long_training(catalogue, run, "--train.hang_minutes", 0.25), ranks=2)
    job.until(lambda: trains(run))
    job.note_processes()
    job.rank(1).suspend()
    assert job.process.wait(150) != 0
    job.until(job.all_gone, seconds=30)
    said = job.log.read_text()
    assert "ppr_dist: error (rank 0): nothing done for 0.25 minutes (train.hang_minutes)" in said
    assert re.search(r'File ".*/ppr_dist/trainer.py", line \d+ in train$', said, re.MULTILINE)
    assert (run / "flight_recorder" / "rank_0").stat().st_size > 0


def test_a_refused_input_is_said_by_one_rank_and_again_in_the_report(launch: Callable[..., Launched]) -> None:
    job = launch("tests.waiting", "refuse")
    assert job.process.wait(90) == 1
    said = "error: --train.lr: not a number"
    assert [line for line in job.said if said in line and "traceback" not in line] == [f"ppr_dist: {said}"]
    assert any(re.fullmatch(rf"\s*traceback\s*: {said}", line) for line in job.said), job.said


# Restarts by torchrun ------------------------------------------------------------------------------------------------


def test_a_restart_goes_on_with_the_run_that_its_launcher_began_and_no_other(catalogue: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def start(launcher: str, attempt: int, steps: int, ranks: int = 1) -> Done:
        """As torchrun starts ranks, with the same command line each time."""
        (report := tmp_path / launcher / f"attempt_{attempt}" / "0").mkdir(parents=True, exist_ok=True)
        variables = {
            "TORCHELASTIC_RUN_ID": "none",
            "TORCHELASTIC_RESTART_COUNT": str(attempt),
            "TORCHELASTIC_ERROR_FILE": str(report / "error.json"),
        }
        train = ("--data", catalogue, "--run-dir", run, *TINY, "--train.max_steps", steps)
        return run_command("pretrain", *train, world_size=ranks, variables=variables)

    assert start("first", 0, 2).codes == [0]
    restarted = start("first", 1, 4)
    assert restarted.codes == [0], restarted
    assert "resumed from step 2" in restarted.out[0]
    grown = start("first", 0, 6)  # torchrun does not count a start that another node's coming brings about
    assert "resumed from step 4" in grown.out[0]
    for attempt in (0, 1):  # of a launcher whose first start was refused
        refused = start("second", attempt, 8)
        assert refused.codes == [2]
        assert f"{run} already holds a run; pass --resume" in refused.err[0]
    (tmp_path / "second" / "ppr_dist-trains").write_text(f"{tmp_path / 'another'}\n{run}\n")
    two = start("second", 2, 8, ranks=2)
    assert two.codes == [0, 0], two
    warnings = [line for line in two.lines if "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in line]
    assert len(warnings) == 1, two


@pytest.mark.exhaustive
def test_torchrun_restarts_after_each_of_two_kills(
    catalogue: Path, tmp_path: Path, launch: Callable[..., Launched]
) -> None:
    run = tmp_path / "run"
    job = launch("ppr_dist.pretrain", *long_training(catalogue, run), meet=("--standalone", "--max-restarts=3"))
    job.until(lambda: trains(run))
    for victim in (1, 0):
        resumed = job.resumed
        job.rank(victim).kill()
        job.until(lambda: job.resumed > resumed)  # noqa: B023 (at once)
        gets_on(job, run)
    assert job.resumed == 2
    made = logged(run)
    assert made[-1] > 6
    assert set(made) == set(range(1, made[-1] + 1))


@pytest.mark.exhaustive
def test_the_node_that_hosts_the_rendezvous_goes_on_without_the_other_and_with_one_that_joins(
    catalogue: Path, tmp_path: Path, launch: Callable[..., Launched]
) -> None:
    run = tmp_path / "run"
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    meet = ("--nnodes=1:2", "--rdzv-backend=c10d", endpoint, "--rdzv-id=elastic", "--max-restarts=3")
    train = ("ppr_dist.pretrain", *long_training(catalogue, run))
    host, other = (launch(*train, ranks=1, meet=(*meet, f"--rdzv-conf=is_host={n}")) for n in (1, 0))
    host.until(lambda: trains(run))
    assert len(json.loads((run / "plan.json").read_text())["ranks"]) == 2
    other.note_processes()
    other.process.kill()
    other.process.wait()
    host.until(lambda: host.resumed == 1)
    gets_on(host, run)
    other.until(other.all_gone, seconds=30)
    assert len(json.loads((run / "plan.json").read_text())["ranks"]) == 1

    launch(*train, ranks=1, meet=(*meet, "--rdzv-conf=is_host=0"))
    host.until(lambda: len(json.loads((run / "plan.json").read_text())["ranks"]) == 2)
    gets_on(host, run)
    made = logged(run)
    assert set(made) == set(range(1, max(made) + 1))


@pytest.mark.exhaustive
def test_four_launchers_train_what_one_process_trains(
    catalogue: Path, tmp_path: Path, launch: Callable[..., Launched]
) -> None:
    """A launcher for each of four machines, which meet on loopback.

    Bit for bit what four ranks of one launcher train. One process adds up the same gradients in another order: its
    weights are the same to 2·10^-6, 1/500 of a step of Adam's (seen: 5·10^-7). The keys' bias alone is not, since its
    gradient is 0 and Adam makes steps of what rounding leaves of it.
    """
    lr, steps = 1e-3, 4
    train = ("--data", catalogue, *TINY, "--train.max_steps", steps, "--train.lr", lr)
    four, together, one = (tmp_path / name for name in ("four", "together", "one"))
    meet = ("--nnodes=4", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=four")
    words = ("ppr_dist.pretrain", *train, "--run-dir", four)
    jobs = [launch(*words, ranks=1, meet=meet) for _ in range(4)]
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
