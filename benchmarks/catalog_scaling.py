"""Does the cost of a step follow the batch and not the catalogue?

    python -m benchmarks.catalog_scaling [--sizes 100000 1000000 10000000 100000000] [--rounds 6] [--out results.md]

Each size trains the same batch (128 users × 50 targets, d 64, 2 layers, sampled softmax, 512 + 256 candidates, ids
drawn over the whole catalogue) on one process: ours (FBGEMM row-wise Adagrad; with float32 and with float16 tables),
nn.Embedding with Adam over the whole table, and nn.Embedding(sparse=True) with SparseAdam, each in a process of its
own, with the same sequential model and loss, where this machine's memory holds it. The sizes of one kind train in turn.
Reports the median step, the median over rounds of its ratio to the smallest size's, start-up, and peak resident memory
beside the bytes of table and state. For ours also what ``ppr_dist.plan`` predicts, over the bytes of the tensors that
FBGEMM then holds, and how much resident memory grew from before the tables until their first values (and the model's
engine) were there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.batches import random_batch
from benchmarks.hardware import available_memory, hardware, heading
from benchmarks.plain_loss import plain_loss
from benchmarks.table_memory import held_bytes, planned_bytes
from benchmarks.worker import Answers, Worker
from ppr_dist.batch import Batch
from ppr_dist.build_model import untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model, Tables, Train
from ppr_dist.model.backbones import sasrec
from ppr_dist.objectives import softmax
from ppr_dist.parallel.apply import parallelize
from ppr_dist.parallel.cluster import default_cluster
from ppr_dist.parallel.distributed import DistributedContext, distributed_context
from ppr_dist.parallel.embeddings import ShardedEmbeddings
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.runs import table_sizes
from ppr_dist.step_loss import make_objectives
from ppr_dist.tracking.machine import peak_rss, resident
from ppr_dist.trainer import train_step

Step = Callable[[Batch], None]
USERS, LENGTH, DIM = 128, 50, 64
ROW_BYTES = {
    "ppr_dist": 4 * DIM + 4,
    "ppr_dist_float16": 2 * DIM + 4,
    "dense_adam": 3 * 4 * DIM,
    "sparse_adam": 3 * 4 * DIM,
}
"""Weights and optimizer state of one item."""
STEPS = 5
"""Of one round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7, 10**8])
    parser.add_argument("--rounds", type=int, default=6, help="the first warms up")
    parser.add_argument("--kinds", nargs="+", choices=ROW_BYTES, default=list(ROW_BYTES))
    parser.add_argument("--most-dense", type=int, default=1_000_000, help="largest catalogue for dense_adam")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one[0], int(options.one[1]))
        return
    rows = [row for kind in options.kinds for row in _take_turns(kind, options)]
    result: dict[str, Any] = {"benchmark": "catalog_scaling", **hardware(), "rows": rows}
    result["step_time_over_smallest"] = {f"{r['kind']} {r['items']:.0e}": r["over_smallest"] for r in rows}
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _take_turns(kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    workers: dict[int, Worker] = {}
    rows: dict[int, dict[str, Any]] = {}
    rounds: list[dict[int, float]] = []
    try:
        for size in options.sizes:
            if _fits(kind, size) and (kind != "dense_adam" or size <= options.most_dense):
                argv = [sys.executable, "-m", "benchmarks.catalog_scaling", "--one", kind, str(size)]
                workers[size] = Worker(argv)
                rows[size] = workers[size].reply()
        for number in range(options.rounds):
            order = list(workers) if number % 2 else list(workers)[::-1]
            rounds.append({size: statistics.median(workers[size].ask(STEPS)["seconds"]) for size in order})
            print(kind, {f"{n:.0e}": f"{1e3 * s:.0f} ms" for n, s in rounds[-1].items()}, file=sys.stderr, flush=True)
        for size, row in rows.items():
            row["peak_rss_bytes"] = workers[size].ask(0)["peak_rss_bytes"]
            row["step_ms"] = 1e3 * statistics.median(r[size] for r in rounds[1:])
            row["over_smallest"] = statistics.median(r[size] / r[min(r)] for r in rounds[1:])
    finally:
        for worker in workers.values():
            worker.stop()
    return list(rows.values())


def _fits(kind: str, size: int) -> bool:
    """Whether the memory now free holds table and state; Adam over a whole table takes as much again on its way."""
    needed = size * ROW_BYTES[kind] * (2 if kind == "dense_adam" else 1) + 2e9
    fits = needed < available_memory()
    if not fits:
        print(f"{kind} at {size:.0e} items: about {needed / 1e9:.0f} GB, left out", file=sys.stderr, flush=True)
    return fits


def measure(kind: str, items: int) -> None:
    """Build, say what that took, then train as many steps as asked and say how long each took."""
    answers = Answers()
    with distributed_context() as context:
        before, resident_before = peak_rss(), resident()
        start = time.perf_counter()
        half, ours = kind == "ppr_dist_float16", kind.startswith("ppr_dist")
        step, embeddings = _ours(items, context, half) if ours else (_plain(items, sparse=kind == "sparse_adam"), None)
        start_up = time.perf_counter() - start
        row = {
            "kind": kind,
            "items": items,
            "start_up_s": start_up,
            "start_up_items_per_s": items / start_up,
            "table_and_state_bytes": items * ROW_BYTES[kind],
            "rss_before_bytes": before,
            "resident_growth_bytes": resident() - resident_before,
        }
        number = 0

        def train(steps: int) -> dict[str, Any]:
            nonlocal number
            seconds = []
            for _ in range(steps):
                number += 1
                batch = _batch(items, number)
                start = time.perf_counter()
                step(batch)
                seconds.append(time.perf_counter() - start)
            return {"seconds": seconds, "peak_rss_bytes": peak_rss()}

        train(1)  # FBGEMM allocates some of its bookkeeping then
        answers.serve(train, ready=row | (_plan(items, embeddings, half) if embeddings else {}))


def _plan(items: int, embeddings: ShardedEmbeddings, half: bool) -> dict[str, Any]:
    """What the plan for this machine predicts beside what the tables hold."""
    planned = planned_bytes(default_cluster("cpu", 1), 1, items, DIM, half=half)[0]
    held = held_bytes(embeddings)
    return {"planned_bytes": planned, "held_bytes": held, "planned_over_held": planned / held}


def _config(*, half: bool = False) -> Config:
    return Config(
        model=Model(dim=DIM, max_length=LENGTH),
        train=Train(global_batch_size=USERS),
        tables=Tables(precision="float16" if half else "float32"),
        parts={
            "sasrec": sasrec.Settings(layers=2, heads=2, ffn_multiple=1),
            "softmax": softmax.Settings(uniform_negatives=512, in_batch_per_user=2),
        },
    )


def _batch(items: int, step: int) -> Batch:
    return random_batch(_config(), items, step, shortest=LENGTH)


def _ours(items: int, context: DistributedContext, half: bool) -> tuple[Step, ShardedEmbeddings]:
    config, catalogue = _config(half=half), Catalogue(items=items, attributes={})
    model = untuned_model(config, catalogue)
    parallel = parallelize(table_sizes(config, catalogue, None), model, config, context)
    objectives = make_objectives(config, None, catalogue)

    def step(batch: Batch) -> None:
        train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)

    return step, parallel.embeddings


def _plain(items: int, *, sparse: bool) -> Step:
    """The same model and loss over nn.Embedding, as one would write it in plain PyTorch."""
    config, catalogue = _config(), Catalogue(items=items, attributes={})
    table = torch.nn.Embedding(items, DIM, sparse=sparse)
    model, objectives = untuned_model(config, catalogue), make_objectives(config, None, catalogue)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(model.parameters(), lr=1e-3)]
    optimizers.append((torch.optim.SparseAdam if sparse else torch.optim.Adam)(table.parameters(), lr=1e-3))

    def step(batch: Batch) -> None:
        plain_loss(model, objectives, batch, table(batch.item_ids)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def _planned(row: dict[str, Any]) -> str:
    if "held_bytes" not in row:
        return " | ".join(["–"] * 4)
    planned, held, grown = (
        f"{row[name] / 1e9:.3f}" for name in ("planned_bytes", "held_bytes", "resident_growth_bytes")
    )
    return f"{planned} | {held} | {row['planned_over_held']:.4f} | {grown}"


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    sizes = " ".join(map(str, options.sizes))
    columns: tuple[str, ...] = (
        "kind",
        "items",
        "step, ms",
        "÷ smallest",
        "start-up, M items/s",
        "table + state, GB",
        "peak RSS, GB",
    )
    columns += ("planned, GB", "held, GB", "planned / held", "resident growth, GB")
    lines = [
        *heading("Step time and memory by size of the catalogue", result),
        f"    python -m benchmarks.catalog_scaling --sizes {sizes} --rounds {options.rounds} "
        f"--most-dense {options.most_dense}",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    lines += [
        f"| {r['kind']} | {r['items']:.0e} | {r['step_ms']:.0f} | {r['over_smallest']:.2f} | "
        f"{r['start_up_items_per_s'] / 1e6:.2f} | {r['table_and_state_bytes'] / 1e9:.2f} | "
        f"{r['peak_rss_bytes'] / 1e9:.2f} | {_planned(r)} |"
        for r in result["rows"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
