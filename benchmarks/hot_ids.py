"""Do hot items overload the rank that holds them?

    python -m benchmarks.hot_ids [--items 1000000] [--ranks 2 8 32] [--out results.md]

Clicks drawn from a Zipf law of exponent 1.2 over ``--items`` items (the hottest is 18 % of all clicks), numbered by
popularity in the raw log, the worst case for blocks of rows; ``prepare``, the stream and the collator as in training
(128 users a rank, length 50, softmax with 512 uniform and 2 in-batch candidates a user), steps of all ranks, the ids of
each counted where row-wise sharding sends them. Reports rows asked of the busiest rank over the mean (the median over
steps), with what the project does (``prepare`` numbers items by a seeded hash; each rank asks for an id once a step)
and without either.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.hardware import hardware, heading
from ppr_dist import runs
from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.objectives import softmax
from ppr_dist.step_loss import make_objectives

ZIPF, LENGTH, USERS, STEPS = 1.2, 50, 128, 4
WAYS = ("hashed order, deduplicated", "hashed order", "deduplicated", "neither")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = _make_data(Path(folder), options.items, users=STEPS * USERS * max(options.ranks))
        rows = [{"ranks": world, "busiest_over_mean": _busiest(data, world)} for world in options.ranks]
    result = {"benchmark": "hot_ids", **hardware(), "items": options.items, "zipf": ZIPF, "rows": rows}
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _make_data(work: Path, items: int, users: int) -> Path:
    print("making the log", file=sys.stderr, flush=True)
    share = np.arange(1, items + 1) ** -ZIPF
    clicks = np.searchsorted(np.cumsum(share) / share.sum(), np.random.default_rng(0).random(users * (LENGTH + 3)))
    # Every item once more, so that the catalogue is whole: by users of 9 clicks, who are cold and train nothing here.
    user = np.concatenate([np.repeat(np.arange(users), LENGTH + 3), users + np.arange(items) // 9])
    log = {"user_id": user, "item_id": np.concatenate([clicks, np.arange(items)])}
    log["timestamp"] = np.arange(len(user))
    pq.write_table(pa.table(log), work / "interactions.parquet")
    pq.write_table(pa.table({"user_id": np.unique(user)}), work / "users.parquet")
    prepare(str(work / "interactions.parquet"), str(work / "users.parquet"), work / "data", PrepareConfig())
    return work / "data"


def _busiest(data: Path, world: int) -> dict[str, float]:
    """Rows asked of the busiest rank over the mean, by way; the median over steps."""
    manifest = load_manifest(data)
    counts = runs.item_counts(data, "train_count")
    by_popularity = np.argsort(np.argsort(-counts, kind="stable"))  # rank in popularity of each item
    block = -(-manifest.items // world)
    asked: dict[str, list[np.ndarray]] = {way: [np.zeros(world) for _ in range(STEPS)] for way in WAYS}
    for rank in range(world):
        for step, batch in enumerate(_batches(data, manifest, counts, rank, world)):
            ids, every = batch.item_ids.numpy(), _with_repeats(batch)
            for way, which in zip(WAYS, (ids, every, by_popularity[ids], by_popularity[every]), strict=True):
                asked[way][step] += np.bincount(which // block, minlength=world)
    return {way: statistics.median(rows.max() / rows.mean() for rows in steps) for way, steps in asked.items()}


def _batches(data: Path, manifest: Manifest, counts: np.ndarray, rank: int, world: int) -> list[Batch]:
    stream = UserStream(data, manifest, "pretrain", batch=USERS * world, rank=rank, world_size=world, shuffle_shards=1)
    config = Config(parts={"softmax": softmax.Settings(uniform_negatives=512, in_batch_per_user=2)})
    collator = Collator(
        objectives=make_objectives(config, None, Catalogue(items=manifest.items, attributes={})),
        items=manifest.items,
        probability=(counts / counts.sum()).astype(np.float32),
        max_length=LENGTH,
        hold_out=2,
        first_target=1,
        seed=0,
        rank=rank,
        world_size=world,
    )
    steps = range(min(STEPS, stream.steps))
    return [collator(users, epoch=0, step=k, global_users=total) for k, total, users in stream.batches(0, steps)]


def _with_repeats(batch: Batch) -> np.ndarray:
    """The ids of a batch as often as it uses them."""
    parts = (batch.history.items, batch.targets, batch.drawn["softmax"]["candidates"])
    return np.concatenate([batch.item_ids[part].numpy() for part in parts])


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        *heading("Hot items and the ranks that hold them", result, "Counts, not times: any machine gives the same."),
        f"    python -m benchmarks.hot_ids --items {options.items} --ranks {' '.join(map(str, options.ranks))}",
        "",
        "Rows asked of the busiest rank over the mean of all ranks:",
        "",
        "| ranks | " + " | ".join(WAYS) + " |",
        "|---|" + "---|" * len(WAYS),
        *(
            f"| {row['ranks']} | " + " | ".join(f"{row['busiest_over_mean'][way]:.2f}" for way in WAYS) + " |"
            for row in result["rows"]
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
