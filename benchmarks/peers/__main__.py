"""How fast does ppr_dist train SASRec beside RecTools' and RecBole's, on one log, in one run?

    python -m benchmarks.peers --work FOLDER [--log FOLDER] [--rounds 10] [--span 6] [--out results.md]

``--log`` (or PPR_DIST_ML1M) holds interactions.parquet and users.parquet; without it a synthetic log is made. Each peer
gets an environment of its own in ``--work``, from benchmarks/peers/NAME.txt. All train the same users' clicks but their
last two: d 64, 2 layers, 2 heads, length 50, feed-forward width d, dropout 0.2, 128 sequences a step, Adam at 1e-3 (our
table: row-wise Adagrad), one process each, the same number of threads. Losses: BCE with 1 negative; softmax over
``--negatives`` sampled negatives (RecTools draws them for each target, ppr_dist for each step; RecBole has only the
softmax over the whole catalogue). All processes of a loss are alive together and train in turn, a span of seconds each,
in alternating order; only one of them runs at a time. Round 0 warms up. Targets are real ones, not padded slots.
Not the same: the peers' dropout on attention weights, which ppr_dist leaves off; the table's optimizer; and RecBole
trains one target of each sequence of a step, where the others train all.
"bare" is the same sequential model over random vectors: no data, tables, loss or engine.
Reports medians over rounds, the median of the ratios within rounds, and each one's seconds of training until NDCG@10 of
the last but one click (whole catalogue, seen items removed) first reaches a given value; ranking is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import environment
from benchmarks.hardware import hardware, heading
from benchmarks.worker import Worker

PEERS = Path(__file__).parent
ROOT = PEERS.parents[1]
MODEL = {"dim": 64, "layers": 2, "heads": 2, "length": 50, "dropout": 0.2, "batch": 128, "lr": 1e-3, "table_lr": 0.05}
NAMES = ("ppr_dist", "bare", "rectools", "recbole")
NDCG = {"bce": 0.05, "softmax": 0.07}
"""Reached by ppr_dist on MovieLens-1M within 15 s of training on one core (measured); popularity scores about 0.02."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=os.environ.get("PPR_DIST_ML1M"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=10, help="spans of each, the first of which warms up")
    parser.add_argument("--span", type=float, default=6.0, help="seconds")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--losses", nargs="+", choices=NDCG, default=list(NDCG))
    parser.add_argument("--names", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--negatives", type=int, default=256, help="of the softmax")
    parser.add_argument("--ndcg", type=float, help="value to reach (default: by loss)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    pythons = {
        name: environment(PEERS / f"{name}.txt", work) for name in options.names if name in ("rectools", "recbole")
    }
    data, log = _prepare(options.log, work)
    rows = [row for loss in options.losses for row in _compare(loss, options, work, data, log, pythons)]
    result = {
        "benchmark": "peers",
        **hardware(),
        "log": "MovieLens-1M" if options.log else "synthetic",
        "threads": options.threads,
        "negatives": options.negatives,
        "rounds": options.rounds - 1,
        "span_s": options.span,
        "rows": rows,
    }
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _prepare(log: Path | None, work: Path) -> tuple[Path, Path]:
    """Prepare the log for ppr_dist; write the same users' clicks, numbered alike, for the peers."""
    source, data, numbered = log or work / "synthetic", work / "data", work / "log.npz"
    if log is None and not source.is_dir():
        size = ("--users", "8000", "--items", "4000", "--cold_fraction", "0", "--max_clicks", "200")
        _run("ppr_dist.data.synthetic", "--out", str(source), *size)
    if not data.is_dir():
        files = ("--interactions", str(source / "interactions.parquet"), "--users", str(source / "users.parquet"))
        _run("ppr_dist.prepare", *files, "--out", str(data), "--min-item-count", "5")
    number(data, numbered)
    return data, numbered


def number(data: Path, out: Path) -> None:
    """Write the warm users' clicks of prepared data, numbered as ppr_dist has them, for :class:`pace.Log`."""
    from ppr_dist.data.manifest import load_manifest
    from ppr_dist.data.stream.user_stream import UserStream

    manifest = load_manifest(data)
    stream = UserStream(data, manifest, "pretrain", batch=1024, rank=0, world_size=1, shuffle=False, shuffle_shards=1)
    blocks = [users for _, _, users in stream.batches(0, range(stream.steps))]
    lengths = np.concatenate([users.lengths for users in blocks])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    np.savez(out, items=np.concatenate([b.items for b in blocks]), offsets=offsets, catalogue=manifest.items)


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True, stdout=sys.stderr)


class _Runner:
    """One trainer in its own process, asleep until it is told to train or to rank."""

    def __init__(self, name: str, loss: str, given: dict[str, Any], folder: Path, python: Path | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        module = f"benchmarks.peers.run_{name if python else 'ppr_dist'}"
        threads = str(given["threads"])
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = str(ROOT)
        self.name, self.trained, self.targets = name, 0.0, 0
        self.curve: list[tuple[float, float]] = []
        """Seconds trained and NDCG@10 then."""
        # Of each span:
        self.spans: list[float] = []
        """Targets per second."""
        self.steps: list[int] = []
        self.seconds: list[float] = []
        self.parts: list[dict[str, float]] = []
        """Seconds of each part of a step."""
        started = time.perf_counter()
        self.worker = Worker(
            [str(python or sys.executable), "-m", module, json.dumps(given | {"loss": loss, "bare": name == "bare"})],
            cwd=folder,
            env=environment,
            stderr=(folder / "stderr.txt").open("w"),
        )
        self.worker.reply()
        self.start_up = time.perf_counter() - started

    def train(self, seconds: float) -> None:
        span = self.worker.ask({"train": seconds})
        self.spans.append(span["targets"] / span["seconds"])
        self.trained += span["seconds"]
        self.targets += span["targets"]
        self.steps.append(span["steps"])
        self.parts.append(span["parts"])
        self.seconds.append(span["seconds"])

    def rank(self) -> None:
        self.curve.append((self.trained, self.worker.ask({"evaluate": True})["ndcg"]))

    def seconds_to(self, ndcg: float) -> float | None:
        return next((seconds for seconds, value in self.curve if value >= ndcg), None)

    def parts_ms(self) -> dict[str, float]:
        """Milliseconds of each part of a step, by the runner's own clock; the median over spans after the first."""
        spans = list(zip(self.parts[1:], self.steps[1:], strict=True))
        names = dict.fromkeys(name for parts, _ in spans for name in parts)
        return {n: statistics.median(1e3 * parts.get(n, 0.0) / steps for parts, steps in spans) for n in names}

    def stop(self) -> None:
        self.worker.stop()


def _compare(
    loss: str, options: argparse.Namespace, work: Path, data: Path, log: Path, pythons: dict[str, Path]
) -> list[dict[str, Any]]:
    given = MODEL | {
        "threads": options.threads,
        "data": str(data),
        "log": str(log),
        "negatives": options.negatives if loss == "softmax" else 1,
    }
    runners = [_Runner(n, loss, given, work / f"{n}-{loss}", pythons.get(n)) for n in options.names]
    try:
        for number in range(options.rounds):
            for runner in runners if number % 2 == 0 else runners[::-1]:
                runner.train(options.span)
                if runner.name != "bare":
                    runner.rank()
                rate, ndcg = runner.spans[-1], runner.curve[-1][1] if runner.curve else 0.0
                print(f"{loss} {number} {runner.name}: {rate:.0f} targets/s, {ndcg:.4f}", file=sys.stderr, flush=True)
    finally:
        for runner in runners:
            runner.stop()
    ours = next((runner for runner in runners if runner.name == "ppr_dist"), None)
    return [_row(loss, runner, ours, options.ndcg or NDCG[loss]) for runner in runners]


def _row(loss: str, runner: _Runner, ours: _Runner | None, ndcg: float) -> dict[str, Any]:
    rates = runner.spans[1:]
    row: dict[str, Any] = {
        "loss": loss,
        "name": runner.name,
        "targets_per_s": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "start_up_s": runner.start_up,
        "trained_s": runner.trained,
        "targets": runner.targets,
        "step_ms": statistics.median(1e3 * s / n for s, n in zip(runner.seconds[1:], runner.steps[1:], strict=True)),
        "parts_ms": runner.parts_ms(),
    }
    if ours is not None and ours is not runner:
        row["ppr_dist_over_this"] = statistics.median(a / b for a, b in zip(ours.spans[1:], rates, strict=True))
    if runner.curve:
        row |= {
            "ndcg_to_reach": ndcg,
            "seconds_to_ndcg": runner.seconds_to(ndcg),
            "ndcg_at_the_end": runner.curve[-1][1],
            "curve": [[round(seconds, 1), round(value, 4)] for seconds, value in runner.curve],
        }
    return row


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    given = [f"--losses {' '.join(options.losses)}", f"--rounds {options.rounds}", f"--span {options.span:g}"]
    given += [f"--names {' '.join(options.names)}", f"--threads {options.threads}", f"--negatives {options.negatives}"]
    lines = [
        *heading("SASRec beside RecTools and RecBole", result, f"{result['threads']} threads, {result['log']}."),
        f"    python -m benchmarks.peers --work FOLDER {'--log FOLDER ' if options.log else ''}{' '.join(given)}",
        "",
        f"Medians over {result['rounds']} spans of {options.span:g} s each, in turn; what is the same and what is not "
        "stands at the top of benchmarks/peers/__main__.py.",
    ]
    for loss in dict.fromkeys(row["loss"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["loss"] == loss]
        ndcg = next(row["ndcg_to_reach"] for row in rows if "ndcg_to_reach" in row)
        title = "BCE, 1 negative" if loss == "bce" else f"Softmax, {result['negatives']} negatives"
        lines += [
            "",
            f"## {title}",
            "",
            "| | targets/s | slowest … fastest | ppr_dist ÷ this | start-up, s | "
            f"s to NDCG@10 {ndcg:g} | NDCG@10 at the end |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            ratio = f"{row['ppr_dist_over_this']:.2f}" if "ppr_dist_over_this" in row else ""
            reached, end = "", ""
            if "curve" in row:
                seconds = row["seconds_to_ndcg"]
                reached = f"{seconds:.0f}" if seconds is not None else f"not in {row['trained_s']:.0f}"
                end = f"{row['ndcg_at_the_end']:.4f}"
            lines.append(
                f"| {row['name']} | {row['targets_per_s']:,.0f} | {row['slowest']:,.0f} … {row['fastest']:,.0f} | "
                f"{ratio} | {row['start_up_s']:.0f} | {reached} | {end} |"
            )
        steps = {row["name"]: row["step_ms"] for row in rows}
        lines += ["", f"A step of ppr_dist, ms (the bare model's, of as many users: {steps.get('bare', 0.0):.1f}):", ""]
        parts: dict[str, float] = next((row["parts_ms"] for row in rows if row["name"] == "ppr_dist"), {})
        lines += [f"- {name}: {ms:.1f}" for name, ms in parts.items()]
        lines += [f"- all of it: {steps.get('ppr_dist', 0.0):.1f}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
