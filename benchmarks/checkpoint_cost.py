"""What do checkpoints and the certificate cost a step?

    python -m benchmarks.checkpoint_cost [--users 512] [--saves 6] [--out results.md]

In the setting of benchmarks.weak_scaling (its data, model and pinned ranks: one core each, which the writing thread
has to share), one rank and two. Spans of training in turn: without a checkpoint, with one written in the background,
with one that is waited for. What a checkpoint costs is how much longer its span takes for as many steps, the median of
the saves; over 60 s that is its share at one a minute. The certificate is timed by itself: hashing a step's users, and
adding the sum.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=512, help="per rank and step")
    parser.add_argument("--saves", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a span, about")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        _run_rank(json.loads(options.rank))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder))
        rows = [_measure(data, Path(folder), world, options) for world in (1, 2)]
    result = {"benchmark": "checkpoint_cost", **hardware(), "rows": rows}
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _measure(data: Path, folder: Path, world: int, options: argparse.Namespace) -> dict[str, Any]:
    cores, runs = sorted(os.sched_getaffinity(0)), str(folder / f"runs-{world}")
    workers = start_ranks("benchmarks.checkpoint_cost", data, options.users, world, cores, folder=runs)

    def ask(kind: str, steps: int) -> dict[str, Any]:
        for worker in workers:
            worker.send([kind, steps])
        first, *_ = [worker.reply() for worker in workers]
        return first

    try:
        for worker in workers:
            worker.reply()
        ask("none", 10)
        steps = max(10, round(options.seconds * 10 / ask("none", 10)["seconds"]))
        ask("background", steps)
        rounds = [
            {kind: ask(kind, steps) for kind in ("none", "background", "waited for")} for _ in range(options.saves)
        ]
    finally:
        for worker in workers:
            worker.stop()
    row: dict[str, Any] = {"ranks": world, "megabytes": rounds[0]["background"]["bytes"] / 1e6}
    row["step_ms"] = 1e3 * statistics.median(r["none"]["seconds"] / steps for r in rounds)
    for kind in ("background", "waited for"):
        row[f"{kind}_s"] = statistics.median(r[kind]["seconds"] - r["none"]["seconds"] for r in rounds)
        row[f"{kind}_call_s"] = statistics.median(r[kind]["call"] for r in rounds)
    row["certificate_us"] = rounds[-1]["none"]["certificate_us"]
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def _run_rank(given: dict[str, Any]) -> None:
    """Train as many steps as asked, with a checkpoint after the first or without."""
    answers = Answers()
    with joined(given) as rank:
        from ppr_dist.checkpoint.certificate import Certificate, hash_of
        from ppr_dist.checkpoint.checkpointer import Checkpointer
        from ppr_dist.checkpoint.position import Position, checkpoints
        from ppr_dist.parallel.prefetch import prefetch
        from ppr_dist.trainer import train_step

        parallel, objectives = rank.parallel, rank.loader.collator.objectives
        batches = prefetch(rank.batches(), parallel.embeddings, objectives, rank.context.device)
        run, certificate = Path(given["folder"]), Certificate((), 0)
        run.mkdir(exist_ok=True)
        checkpointers = {
            "background": Checkpointer(run, keep=1, asynchronous=True),
            "waited for": Checkpointer(run, keep=1),
        }
        done = 0

        def train(asked: tuple[str, int]) -> dict[str, float]:
            nonlocal done
            kind, steps = asked
            call = 0.0
            begin = time.perf_counter()
            for number in range(steps):
                fetched = next(batches)
                train_step(parallel, fetched, objectives)
                done += 1
                if number == 0 and kind in checkpointers:
                    position = Position(step=done, stream=rank.loader.stream.state(), world_size=given["world"])
                    start = time.perf_counter()
                    checkpointers[kind].save(parallel, position)
                    call = time.perf_counter() - start
            for each in checkpointers.values():
                each.finish()
            seconds = time.perf_counter() - begin
            users, start = fetched.batch.users.numpy(), time.perf_counter()
            for _ in range(100):
                certificate.add(0, done, hash_of(users))
            found = checkpoints(run)
            return {
                "seconds": seconds,
                "call": call,
                "certificate_us": 1e6 * (time.perf_counter() - start) / 100,
                "bytes": sum(file.stat().st_size for file in found[-1].iterdir()) if found else 0,
            }

        answers.serve(train)


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        *heading("What checkpoints and the certificate cost a step", result),
        f"    python -m benchmarks.checkpoint_cost --users {options.users} --saves {options.saves}",
        "",
        "A checkpoint has checksums and is synced to the disk. The share is of a run that writes one a minute.",
        "",
        "| ranks | step, ms | checkpoint, MB | in the background: longer by, s | of that the loop stands still | "
        "share | waited for: longer by, s | share | certificate, µs a step | share |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['ranks']} | {r['step_ms']:.1f} | {r['megabytes']:.0f} | {r['background_s']:.2f} | "
        f"{r['background_call_s']:.2f} | {r['background_s'] / 60:.2%} | {r['waited for_s']:.2f} | "
        f"{r['waited for_s'] / 60:.2%} | {r['certificate_us']:.0f} | {r['certificate_us'] / 1e3 / r['step_ms']:.2%} |"
        for r in result["rows"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
