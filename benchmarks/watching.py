"""What does watching cost a step?

    python -m benchmarks.watching [--users 128 512] [--steps 200] [--out results.md]

In the setting of benchmarks.weak_scaling (its data, model and pinned ranks), one rank and two. Every other step is
sampled by part (ppr_dist/tracking/step_parts.py), wrapping and unwrapping included: its median against the others' is
what a sample costs, and 1/50 of that what sampling costs a step at ``logging.parts_every`` 50. Besides, the time spent
in the logger itself: its note of each step, and a report every 20 steps, which waits for the other rank.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.hardware import hardware, heading
from benchmarks.weak_scaling import joined, make_data, start_ranks
from benchmarks.worker import Answers

EVERY = 50
"""``logging.parts_every``, by default."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[128, 512], help="per rank and step")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        _run_rank(json.loads(options.rank))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder))
        rows = [_measure(data, users, world, options.steps) for users in options.users for world in (1, 2)]
    result = {"benchmark": "watching", **hardware(), "steps": options.steps, "rows": rows}
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _measure(data: Path, users: int, world: int, steps: int) -> dict[str, Any]:
    workers = start_ranks("benchmarks.watching", data, users, world, sorted(os.sched_getaffinity(0)))
    try:
        for worker in workers:
            worker.reply()
        for count in (40, steps):  # the first warms up
            for worker in workers:
                worker.send(count)
            replies = [worker.reply() for worker in workers]
    finally:
        for worker in workers:
            worker.stop()
    plain, sampled = (statistics.median(replies[0][kind]) for kind in ("plain", "sampled"))
    row = {"users": users, "ranks": world, "step_ms": 1e3 * plain, "sampled_step_ms": 1e3 * sampled}
    row["sampling_share"] = (sampled - plain) / EVERY / plain
    row["note_share"] = statistics.median(replies[0]["noted"]) / plain
    row["report_ms"] = 1e3 * statistics.median(replies[0]["reported"])
    row["report_share"] = statistics.median(replies[0]["reported"]) / 20 / plain
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def _run_rank(given: dict[str, Any]) -> None:
    """Train as many steps as asked, and reply with the seconds of plain and sampled ones, of notes and reports."""
    answers = Answers()
    with joined(given) as rank, tempfile.TemporaryDirectory() as folder:
        from ppr_dist.parallel.prefetch import prefetch
        from ppr_dist.parallel.step_cost import StepFlops
        from ppr_dist.tracking.metric_logger import MetricLogger
        from ppr_dist.trainer import train_step

        parallel, objectives = rank.parallel, rank.loader.collator.objectives
        flops = StepFlops(rank.config, rank.catalogue, None)
        counted = {"total_steps": 10**9, "first_step": 0, "stage": "benchmark"}
        logger = MetricLogger(Path(folder), rank.config, rank.context, parallel, **counted, flops=flops)  # type: ignore[arg-type]
        batches = prefetch(logger.waiting(rank.batches()), parallel.embeddings, objectives, rank.context.device)
        done = 0

        def train(steps: int) -> dict[str, list[float]]:
            nonlocal done
            taken: dict[str, list[float]] = {"plain": [], "sampled": [], "noted": [], "reported": []}
            for number in range(steps):
                start = time.perf_counter()
                if number % 2:
                    logger.parts.start()
                fetched = next(batches)
                loss = train_step(parallel, fetched, objectives)
                if number % 2:
                    logger.parts.stop()
                trained = time.perf_counter()
                taken["sampled" if number % 2 else "plain"].append(trained - start)
                done += 1
                logger.step(done, 0, 1e-3, loss, fetched)
                taken["noted" if done % rank.config.train.log_every else "reported"].append(
                    time.perf_counter() - trained
                )
            return taken

        answers.serve(train)


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        *heading("What watching costs a step", result),
        f"    python -m benchmarks.watching --users {' '.join(map(str, options.users))} --steps {options.steps}",
        "",
        "| users per rank | ranks | step, ms | sampled step, ms | sampling one in 50, of a step | note of each step | "
        "report, ms | report every 20 steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['users']} | {row['ranks']} | {row['step_ms']:.1f} | {row['sampled_step_ms']:.1f} | "
        f"{row['sampling_share']:.3%} | {row['note_share']:.2%} | {row['report_ms']:.2f} | {row['report_share']:.2%} |"
        for row in result["rows"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
