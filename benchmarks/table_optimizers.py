"""What does a step cost under each optimizer of the tables?

    python -m benchmarks.table_optimizers [--steps 20] [--out results.md]

One rank, one thread; CPU time of the process, so that others on the machine count little. Of the tables alone: looking
up the distinct rows of a batch and updating them in the backward pass. Of a whole training step: SASRec of two layers,
width 64, 256 users of 25 to 50 clicks, softmax over 512 uniform and the batch's own candidates.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.batches import random_batch
from benchmarks.hardware import hardware, heading
from ppr_dist.batch import Batch
from ppr_dist.build_model import untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Tables
from ppr_dist.parallel.apply import parallelize
from ppr_dist.parallel.distributed import DistributedContext, distributed_context
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.runs import table_sizes
from ppr_dist.step_loss import make_objectives
from ppr_dist.trainer import train_step

OPTIMIZERS = ("sgd", "rowwise_adagrad", "adagrad", "adam")
WARM_UP, BATCHES = 3, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--items", type=int, nargs="+", default=[3_416, 1_000_000])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with distributed_context() as context:
        rows = [measure(o, items, options.steps, context) for items in options.items for o in OPTIMIZERS]
    result = {"benchmark": "table_optimizers", **hardware(), "rows": rows}
    if options.out:
        options.out.write_text(markdown(result))
    print(json.dumps(result))


def measure(optimizer: str, items: int, steps: int, context: DistributedContext) -> dict[str, Any]:
    """Milliseconds of a step, and of its tables."""
    config, catalogue = Config(tables=Tables(optimizer=optimizer)), Catalogue(items=items, attributes={})  # type: ignore[arg-type]
    parallel = parallelize(table_sizes(config, catalogue, None), untuned_model(config, catalogue), config, context)
    objectives = make_objectives(config, None, catalogue)
    batches = [random_batch(config, items, number, shortest=25) for number in range(BATCHES)]

    def tables(batch: Batch) -> None:
        vectors = parallel.embeddings.look_up_items(batch.item_ids)["id"]
        vectors.backward(vectors.detach())

    def whole(batch: Batch) -> None:
        train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)

    return {
        "items": items,
        "optimizer": optimizer,
        "rows": statistics.mean(len(batch.item_ids) for batch in batches),
        "tables_ms": milliseconds(tables, batches, steps),
        "step_ms": milliseconds(whole, batches, steps),
    }


def milliseconds(step: Callable[[Batch], None], batches: list[Batch], steps: int) -> float:
    """The median of ``steps``."""
    taken = []
    for number in range(WARM_UP + steps):
        began = time.process_time()
        step(batches[number % len(batches)])
        taken.append(1e3 * (time.process_time() - began))
    return statistics.median(taken[WARM_UP:])


def markdown(result: dict[str, Any]) -> str:
    return "\n".join(lines(result)) + "\n"


def lines(result: dict[str, Any]) -> Iterator[str]:
    yield from (
        *heading("A step under each optimizer of the tables", result, "One rank, one thread, CPU time."),
        "    python -m benchmarks.table_optimizers",
        "",
        "What is measured stands at the top of benchmarks/table_optimizers.py.",
        "",
        "| items | distinct rows of a step | optimizer | tables, ms | whole step, ms |",
        "|---|---|---|---|---|",
    )
    for r in result["rows"]:
        yield f"| {r['items']:,} | {r['rows']:,.0f} | {r['optimizer']} | {r['tables_ms']:.1f} | {r['step_ms']:.0f} |"


if __name__ == "__main__":
    main()
