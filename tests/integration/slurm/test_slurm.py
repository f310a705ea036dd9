"""launch/*.sbatch on a real cluster of two nodes: signalled, requeued, resumed; a node lost; arrays and chains."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.commands import succeed
from tests.integration.conftest import TINY
from tests.integration.slurm.cluster import NODES, Cluster, until
from tests.oracle import tensors

pytestmark = pytest.mark.timeout(1800)  # each wait has a limit of its own
ROOT = Path(__file__).resolve().parents[3]
STEPS = 600
"""Of a run that a test interrupts: seconds."""


def options(*words: Any) -> list[str]:
    return [str(word) for word in words]


class Jobs:
    """Submits from the project's folder, as a user does; what jobs print goes to ``folder``."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.config = folder / "config.yaml"
        body: dict[str, dict[str, Any]] = {}
        for option, value in zip(TINY[::2], TINY[1::2], strict=True):
            section, name = str(option)[2:].split(".")
            if section not in ("prompt", "profile"):
                body.setdefault(section, {})[name] = value
        body["train"] |= {"log_every": 1, "epochs": 10**6, "max_steps": STEPS}
        self.config.write_text(yaml.safe_dump(body))
        self.variables = {
            **cluster.environment,
            "PYTHONPATH": str(ROOT),
            "TORCHRUN": str(Path(sys.executable).parent / "torchrun"),
            "LOG_DIR": str(folder / "ranks"),
            "CUDA_VISIBLE_DEVICES": "",
            "NPROC_PER_NODE": "1",
            "CONFIG": str(self.config),
        }

    def asked(self, nodes: int) -> list[str]:
        return options("--nodes", nodes, "--gpus-per-node", 0, "--output", self.folder / "%x-%j.out")

    def submit(self, script: str, *argv: Any, nodes: int = 2, sbatch: tuple[str, ...] = (), **variables: Any) -> int:
        words = ["sbatch", "--parsable", *self.asked(nodes), *sbatch, f"launch/{script}.sbatch", *options(*argv)]
        return int(self.run(*words, **variables))

    def run(self, *words: str, **variables: Any) -> str:
        environment = self.variables | {name: str(value) for name, value in variables.items()}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def said(self) -> str:
        """All that the jobs have printed."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.out")))

    def until(self, happens: Callable[[], bool], what: str, seconds: float = 300) -> None:
        until(happens, what, seconds, say=lambda: self.said() + self.cluster.log())

    def ends(self, number: int, state: str = "COMPLETED", seconds: float = 300) -> None:
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        self.until(lambda: self.cluster.job(number, "JobState") in over, f"job {number} ends", seconds)
        assert self.cluster.job(number, "JobState") == state, self.said()


@pytest.fixture
def jobs(cluster: Cluster, tmp_path: Path) -> Jobs:
    return Jobs(cluster, tmp_path)


@pytest.fixture(scope="session")
def uninterrupted(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The tensors that two ranks come to with no interruption."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train = ("--train.epochs", 1000, "--train.max_steps", STEPS)
    succeed("pretrain", "--data", catalogue, "--run-dir", run, *TINY, *train, world_size=2)
    return tensors(run)


def steps(run: Path) -> list[int]:
    """The steps in the run's log, in the order in which they were made."""
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [record["step"] for record in records if "loss" in record]


def same(found: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert found.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.exhaustive
def test_a_signalled_job_saves_is_requeued_and_ends_as_if_nothing_had_been(
    catalogue: Path, jobs: Jobs, uninterrupted: dict[str, np.ndarray]
) -> None:
    """The signal is the one that the scripts ask for 2 minutes before the time limit; no checkpoint was due."""
    run = jobs.folder / "run"
    # The signal reaches every process of the job, also loader workers and W&B's service.
    helped = ("--stream.workers", 1, "--logging.wandb", "true")
    number = jobs.submit("pretrain", *helped, DATA=catalogue, RUN=run)
    jobs.until(lambda: len(steps(run)) > 3, "it trains")
    jobs.cluster.ask("scancel", "--batch", "--signal=TERM", str(number))
    jobs.until((run / "preempted").exists, "it has saved", seconds=30)
    notice = json.loads((run / "preempted").read_text())
    assert notice["signal"] == "SIGUSR1"
    assert 3 < notice["step"] < STEPS
    jobs.ends(number)
    assert not (run / "preempted").exists()
    assert steps(run) == list(range(1, STEPS + 1)), "a step was lost or made twice"
    same(tensors(run), uninterrupted)
    said = jobs.said()
    assert f"resumed from step {notice['step']}: " in said
    assert "start 2: 2 node(s)" in said
    assert "W&B" not in said
    of_ranks = sorted(
        path.relative_to(jobs.folder / "ranks").parts[0] for path in jobs.folder.glob("ranks/**/stdout.log")
    )
    assert of_ranks == sorted(NODES * 2)  # two starts


@pytest.mark.exhaustive
@pytest.mark.parametrize("dies", ["the node", "slurmd"])
def test_a_node_that_is_lost_puts_the_job_back_and_one_node_goes_on(dies: str, catalogue: Path, jobs: Jobs) -> None:
    """Between two checkpoints. One rank goes on where two were: each user once in each epoch, as ``verify`` proves.

    The ranks of a node that is gone end those of the other. Those of a slurmd that is gone train on until Slurm ends
    the job, and save.
    """
    run = jobs.folder / "run"
    train = ("--train.checkpoint_every", 20, "--train.max_steps", 10**6)
    number = jobs.submit("pretrain", *train, DATA=catalogue, RUN=run)
    jobs.until(lambda: len(steps(run)) > 30, "it trains")
    jobs.cluster.kill_node(NODES[1], slurmd_alone=dies == "slurmd")
    try:
        jobs.until(lambda: jobs.cluster.job(number, "JobState") == "PENDING", "Slurm puts the job back")
        before = len(steps(run))
        jobs.cluster.ask("scontrol", "update", f"JobId={number}", "NumNodes=1", "NumCPUs=1", "NumTasks=1")
        jobs.until(lambda: len(steps(run)) > before + 5, "it goes on")
        assert jobs.cluster.job(number, "BatchHost") == NODES[0]
        jobs.cluster.ask("scancel", str(number))
        jobs.ends(number, "CANCELLED")
    finally:
        jobs.cluster.start_node(NODES[1])
        jobs.until(lambda: jobs.cluster.states() == {"idle"}, "both nodes are back")
    assert "start 2: 1 node(s)" in jobs.said()
    (from_step,) = map(int, re.findall(r"resumed from step (\d+)", jobs.said()))
    assert from_step == before if dies == "slurmd" else 0 < from_step <= before and from_step % 20 == 0
    succeed("verify", "--run-dir", run)


@pytest.mark.exhaustive
def test_a_time_limit_shorter_than_checkpoint_every_still_gets_on(catalogue: Path, jobs: Jobs) -> None:
    """A real one: Slurm counts it in minutes, looks every half minute, and sends the signal up to a minute early."""
    run = jobs.folder / "run"
    never = ("--train.checkpoint_every", 10**6, "--train.max_steps", 10**6)
    number = jobs.submit("pretrain", *never, DATA=catalogue, RUN=run, sbatch=("--time", "3", "--signal", "B:TERM@60"))
    jobs.until(lambda: "resumed from step" in jobs.said(), "the time is up, and it goes on", seconds=480)
    jobs.cluster.ask("scancel", str(number))
    jobs.ends(number, "CANCELLED")
    assert steps(run) == list(range(1, steps(run)[-1] + 1))
    succeed("verify", "--run-dir", run)


@pytest.mark.exhaustive
def test_what_is_cancelled_has_saved_and_what_fails_is_not_put_back(catalogue: Path, jobs: Jobs) -> None:
    run = jobs.folder / "run"
    number = jobs.submit("pretrain", DATA=catalogue, RUN=run, nodes=1)
    jobs.until(lambda: len(steps(run)) > 3, "it trains")
    jobs.cluster.ask("scancel", str(number))
    jobs.ends(number, "CANCELLED")
    assert json.loads((run / "preempted").read_text())["signal"] == "SIGTERM"
    assert jobs.cluster.job(number, "Restarts") == "0"

    refused = jobs.submit("pretrain", "--model.dim", 24, DATA=catalogue, RUN=run, nodes=1)
    jobs.ends(refused, "FAILED")
    assert jobs.cluster.job(refused, "Restarts") == "0"
    assert (run / "preempted").exists(), "the notice of the earlier job, which has not been resumed"
    assert f"ppr_dist: error: {run} has model.dim 16; resume it with --model.dim 16" in jobs.said()


@pytest.mark.exhaustive
def test_an_array_is_one_run_for_each_seed(catalogue: Path, jobs: Jobs) -> None:
    run = jobs.folder / "run"
    few = ("--train.max_steps", 3)
    number = jobs.submit("pretrain", *few, DATA=catalogue, RUN=run, nodes=1, sbatch=("--array", "3-4"))
    jobs.until(lambda: not jobs.cluster.ask("squeue", "--noheader"), "both end")
    assert jobs.cluster.job(number, "JobState") == "COMPLETED", jobs.said()
    assert sorted(path.name for path in run.iterdir()) == ["seed-3", "seed-4"]
    for folder in run.iterdir():
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert f"seed-{config['train']['seed']}" == folder.name
        assert steps(folder) == [1, 2, 3]


@pytest.mark.exhaustive
def test_the_whole_way_by_one_command(raw: Path, jobs: Jobs) -> None:
    (tuning := jobs.folder / "tune.yaml").write_text("train: {global_batch_size: 32, max_steps: 3, log_every: 1}\n")
    said = jobs.run(
        *("launch/chain.sh", *jobs.asked(2)),
        INTERACTIONS=raw / "interactions.parquet",
        USERS=raw / "users.parquet",
        DATA=jobs.folder / "data",
        RUN=jobs.folder / "run",
        METHODS="ppr-light fine-tune",
        PREPARE_FLAGS="--buckets.age 5 --users-per-member 16 --members-per-shard 2",
        PRETRAIN_CONFIG=jobs.config,
        PRETRAIN_FLAGS="--train.max_steps 3",
        TUNE_CONFIG=tuning,
        EVALUATE_FLAGS="--task few-shot",
    )
    numbers = [int(line.split()[2].rstrip(":")) for line in said.splitlines()]
    assert len(numbers) == 6
    for number in numbers:
        jobs.ends(number)
    for method in ("ppr-light", "fine-tune"):
        (line,) = (jobs.folder / f"run-{method}" / "evaluations.jsonl").read_text().splitlines()
        assert json.loads(line)["task"] == "few-shot"


@pytest.mark.exhaustive
def test_where_one_of_the_chain_fails_the_rest_is_cancelled(raw: Path, jobs: Jobs) -> None:
    words = {"INTERACTIONS": raw / "gone.parquet", "DATA": jobs.folder / "data", "RUN": jobs.folder / "run"}
    said = jobs.run("launch/chain.sh", *jobs.asked(1), **words)
    first, *others = [int(line.split()[2].rstrip(":")) for line in said.splitlines()]
    jobs.ends(first, "FAILED")
    for number in others:
        jobs.ends(number, "CANCELLED")


@pytest.mark.parametrize("script", ["prepare", "pretrain", "tune", "evaluate"])
def test_a_missing_variable_is_one_line(script: str, jobs: Jobs) -> None:
    jobs.ends(jobs.submit(script, nodes=1), "FAILED")
    (line,) = jobs.said().splitlines()
    assert line.startswith(f"launch/{script}.sbatch: error: ")
    assert " is not set (" in line
