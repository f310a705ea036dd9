"""What does a step cost by each item encoder, beside ids; and what do catalogues of up to 10^9 items take?

    python -m benchmarks.item_encoders [--items 1000000] [--steps 10] [--out results.md]

One rank, one thread; CPU time of the process, so that others on the machine count little. SASRec of two layers, width
64, 256 users of 25 to 50 clicks, softmax over 512 uniform and the batch's own candidates; features of 128 numbers, four
codes of 256 values, texts of 16 words. Larger catalogues are planned (``ppr_dist.plan``), not trained.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.batches import random_batch
from benchmarks.hardware import hardware, heading
from benchmarks.ml_1m import ROOT
from ppr_dist.build_model import untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model
from ppr_dist.data.manifest import ItemData
from ppr_dist.parallel.apply import parallelize
from ppr_dist.parallel.capacity_planning import report
from ppr_dist.parallel.distributed import DistributedContext, distributed_context
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.plan import Arguments
from ppr_dist.runs import table_sizes
from ppr_dist.step_loss import make_objectives
from ppr_dist.trainer import train_step

KNOWN = {
    "text": ItemData(kind="features", columns=128, known=0, sha256=""),
    "codes": ItemData(kind="codes", columns=4, known=0, sha256="", values=256),
    "tokens": ItemData(kind="tokens", columns=32, known=0, sha256="", values=30_000),
}
ENCODERS = (["id"], ["features"], ["codes"], ["id", "features"], ["id", "codes"], ["tokens"])
WARM_UP, BATCHES = 2, 2
PLANNED = (10**7, 10**8, 10**9)
CLUSTER = ROOT / "sharding" / "gpu-32.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with distributed_context() as context:
        rows = [measure(encoders, options.items, options.steps, context) for encoders in ENCODERS]
    plans = [planned(encoders, items) for encoders in (["id"], ["features"], ["codes"]) for items in PLANNED]
    result = {"benchmark": "item_encoders", **hardware(), "items": options.items, "rows": rows, "plans": plans}
    if options.out:
        options.out.write_text("\n".join(lines(result)) + "\n")
    print(json.dumps(result))


def measure(encoders: list[str], items: int, steps: int, context: DistributedContext) -> dict[str, Any]:
    """Milliseconds of a step (the median), and bytes of the tables and of what encoders learn."""
    config = Config(model=Model(item_encoders=encoders))
    catalogue = Catalogue(items=items, attributes={}, item_data=KNOWN)
    model = untuned_model(config, catalogue)
    learnt = sum(parameter.nbytes for parameter in model.item_encoder.parameters())
    parallel = parallelize(table_sizes(config, catalogue, None), model, config, context)
    parallel.embeddings.fill_item_data({name: _rows(items, data) for name, data in KNOWN.items()})
    objectives = make_objectives(config, None, catalogue)
    batches = [random_batch(config, items, number, shortest=25) for number in range(BATCHES)]
    taken = []
    for number in range(WARM_UP + steps):
        began = time.process_time()
        train_step(parallel, fetch(batches[number % BATCHES], parallel.embeddings, objectives), objectives)
        taken.append(1e3 * (time.process_time() - began))
    held = parallel.embeddings.plan["ranks"][0]["host"]
    return {
        "encoders": encoders,
        "distinct": statistics.mean(len(batch.item_ids) for batch in batches),
        "step_ms": statistics.median(taken[WARM_UP:]),
        "table_bytes": held["weights"] + held["optimizer"],
        "learnt_bytes": learnt,
    }


def planned(encoders: list[str], items: int) -> dict[str, Any]:
    """Bytes of tables, and what a step receives, on the fullest of 32 ranks; features and codes as above."""
    known = {name: data.columns for name, data in KNOWN.items() if name != "tokens"}
    arguments = Arguments(cluster=CLUSTER, items=items, item_data=known)
    found, _, _ = report(arguments, Config(model=Model(item_encoders=encoders)))
    (memory,) = (name for name, held in found["largest"].items() if held)
    fullest = max(found["ranks"], key=lambda rank: rank[memory]["total"])[memory]
    step = found["step"]["planned"]
    return {
        "encoders": encoders,
        "items": items,
        "fits": found["fits"],
        "table_bytes": fullest["weights"] + fullest["optimizer"],
        "step_bytes": sum(part["bytes"] for part in step.values()),
        "step_flops": sum(part["flops"] for part in step.values()),
    }


def _rows(items: int, data: ItemData) -> npt.NDArray[np.float16]:
    rng, shape = np.random.default_rng(0), (items, data.columns)
    if data.kind == "features":
        return rng.standard_normal(shape, dtype=np.float32).astype(np.float16)
    return rng.integers(1, 15 if data.kind == "tokens" else data.values, shape).astype(np.float16)


def lines(result: dict[str, Any]) -> Iterator[str]:
    yield from (
        *heading("A step by each item encoder", result, "One rank, one thread, CPU time."),
        "    python -m benchmarks.item_encoders",
        "",
        f"What is measured stands at the top of benchmarks/item_encoders.py; {result['items']:,} items.",
        "",
        "| item encoders | distinct items of a step | a step, ms | tables and their optimizer, MB | learnt, MB |",
        "|---|---|---|---|---|",
    )
    for r in result["rows"]:
        yield (
            f"| {' + '.join(r['encoders'])} | {r['distinct']:,.0f} | {r['step_ms']:.0f} | "
            f"{r['table_bytes'] / 1e6:,.1f} | {r['learnt_bytes'] / 1e6:.2f} |"
        )
    yield from (
        "",
        f"Planned on 32 ranks of {CLUSTER.name}: what the fullest holds, and receives in a step of 256 users.",
        "",
        "| item encoders | items | fits | tables and their optimizer, GB | received, MB | FLOPs |",
        "|---|---|---|---|---|---|",
    )
    for r in result["plans"]:
        yield (
            f"| {' + '.join(r['encoders'])} | {r['items']:,} | {'yes' if r['fits'] else 'no'} | "
            f"{r['table_bytes'] / 1e9:,.3f} | {r['step_bytes'] / 1e6:.2f} | {r['step_flops']:.2e} |"
        )


if __name__ == "__main__":
    main()
