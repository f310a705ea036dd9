"""Does a Slurm job survive what a cluster does to it? The faults of benchmarks.survival that only a cluster has.

    python -m benchmarks.survival_slurm --work FOLDER [--rounds 2] [--out results.md]

A real Slurm of two nodes on loopback (tests/integration/slurm/cluster.py; needs slurm-wlm, munge and root). One job of
launch/pretrain.sbatch trains on both; each fault strikes it while it trains, and it is recovered when Slurm has put it
back, it has gone on by itself from where it stood, and ``ppr_dist.verification`` proves from the files that every user
of the epochs trained was consumed exactly once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.hardware import hardware, heading
from benchmarks.survival import CONFIG, logged, make_data, prove, step_of_latest
from tests.integration.slurm.cluster import NODES, Cluster, missing
from tests.integration.slurm.test_slurm import Jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if why := missing():
        sys.exit(f"survival_slurm: {why}")
    work = options.work.resolve()
    make_data(work)
    (work / "slurm").mkdir()
    (work / "jobs").mkdir()
    cluster = Cluster(work / "slurm")
    cluster.start()
    try:
        jobs = Jobs(cluster, work / "jobs")
        jobs.config.write_text(yaml.safe_dump(yaml.safe_load(CONFIG)))
        run = work / "run"
        number = jobs.submit("pretrain", DATA=work / "data", RUN=run)
        rows = [_strike(jobs, number, run, work, name) for _ in range(options.rounds) for name in FAULTS]
    finally:
        cluster.stop()
    result = {"benchmark": "survival_slurm", **hardware(), "rows": rows}
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _signal(jobs: Jobs, number: int) -> None:
    jobs.cluster.ask("scancel", "--batch", "--signal=TERM", str(number))


def _requeued(jobs: Jobs, number: int) -> None:
    jobs.cluster.ask("scontrol", "requeue", str(number))


def _node_lost(jobs: Jobs, number: int) -> None:
    jobs.cluster.kill_node(NODES[1])


def _slurmd_lost(jobs: Jobs, number: int) -> None:
    jobs.cluster.kill_node(NODES[1], slurmd_alone=True)


FAULTS: dict[str, Callable[[Jobs, int], None]] = {
    "SIGTERM before the time limit": _signal,
    "requeued by an operator": _requeued,
    "a node lost": _node_lost,
    "its slurmd lost": _slurmd_lost,
}


def _strike(jobs: Jobs, number: int, run: Path, work: Path, name: str) -> dict[str, Any]:
    before = step_of_latest(run)
    jobs.until(lambda: logged(run) > before + 20, "it trains")
    at_step, starts, begun, began = logged(run), jobs.said().count("launch: job"), time.monotonic(), time.time()
    FAULTS[name](jobs, number)
    if NODES[1] not in jobs.cluster.daemons:
        jobs.until(lambda: jobs.cluster.job(number, "JobState") == "PENDING", "Slurm puts the job back", seconds=180)
        jobs.cluster.start_node(NODES[1])
    jobs.until(lambda: jobs.said().count("launch: job") > starts, "it starts again", seconds=180)
    stood = step_of_latest(run)
    jobs.until(lambda: logged(run, since=began) > stood + 2, "it goes on", seconds=180)
    row = {"fault": name, "at_step": at_step, "went_on_from": stood, "seconds": time.monotonic() - begun}
    row["proved"] = prove(work, run)
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        *heading("Survival under Slurm", result),
        f"    python -m benchmarks.survival_slurm --work FOLDER --rounds {options.rounds}",
        "",
        "One job on two nodes (Slurm on loopback; SlurmdTimeout 10 s, a requeued job waits 5 s), a checkpoint every 8",
        "steps. Seconds: from the fault to the third step after it, Slurm's own waiting included.",
        "",
        "| fault | struck at step | went on from | seconds |",
        "|---|---|---|---|",
    ]
    lines += [f"| {r['fault']} | {r['at_step']} | {r['went_on_from']} | {r['seconds']:.0f} |" for r in result["rows"]]
    return "\n".join([*lines, "", f"At the end: {result['rows'][-1]['proved']}.", ""])


if __name__ == "__main__":
    main()
