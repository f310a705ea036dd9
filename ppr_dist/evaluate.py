"""``python -m ppr_dist.evaluate``: rank held-out clicks, print one JSON line, write predictions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ppr_dist import cli, runs
from ppr_dist.config import parse
from ppr_dist.data.instances import Task
from ppr_dist.errors import UserError
from ppr_dist.evaluation import Evaluated, evaluate
from ppr_dist.parallel.collectives import all_gather_ragged
from ppr_dist.parallel.mesh import Mesh, mesh, on_main
from ppr_dist.scoring import PopularityScorer, Scorer
from ppr_dist.trained import Trained, load_trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    run_dir: Path
    """A pre-trained or tuned run."""
    task: list[Task]
    """few-shot, zero-shot, joint (cold test users), next-item, validation (warm users); one or several."""
    data: Path | None = None
    """Folder that prepare wrote; by default the one the run was trained on."""
    protocol: Literal["sampled-99", "full"] = "sampled-99"
    """Rank among 99 uniform unclicked items, or among the whole catalogue but what the user had seen."""
    predictions: Path | None = None
    """Parquet file to write: user_id, item_id, rank, candidates."""
    baseline: Literal["popularity"] | None = None
    """Score by this baseline in place of the model."""
    batch: int = 1024
    """Users read at once, summed over ranks."""
    seed: int = 0
    """Seed of the sampled negatives."""
    progress: bool = True
    """Show a progress bar on rank 0."""


def main(argv: list[str] | None = None) -> None:
    arguments, _ = parse("ppr_dist.evaluate", argv, Arguments, with_config=False)
    if arguments.predictions and len(arguments.task) > 1:
        raise UserError("--predictions holds one task; evaluate the others in commands of their own")
    with mesh() as ranks:
        trained = load_trained(arguments.run_dir, arguments.data, ranks)
        scorer: Scorer = trained.scorer
        if arguments.baseline == "popularity":
            counts = torch.from_numpy(runs.item_counts(trained.data, "train_count").astype(np.float32))
            scorer = PopularityScorer(counts.to(ranks.device), ranks.device)
        for task in arguments.task:
            metrics, mine = evaluate(
                scorer,
                trained.data,
                trained.manifest,
                ranks,
                task=task,
                protocol=arguments.protocol,
                max_length=trained.config.model.max_length,
                seed=arguments.seed,
                batch=arguments.batch,
                progress=arguments.progress,
            )
            if arguments.predictions:
                _write_predictions(arguments.predictions, trained, mine, ranks)
            if ranks.main:
                method = arguments.baseline or trained.info.method or "pre-train"
                line = json.dumps({**metrics, "method": method, "seed": arguments.seed})
                with (arguments.run_dir / "evaluations.jsonl").open("a") as file:
                    file.write(line + "\n")
                print(line, flush=True)


def _write_predictions(path: Path, trained: Trained, mine: Evaluated, ranks: Mesh) -> None:
    """Gather all ranks' instances and write them under their raw ids, sorted, atomically."""
    columns = np.stack([mine.users, mine.items, mine.ranks, mine.candidates], axis=1)
    gathered = all_gather_ragged(torch.from_numpy(columns).to(ranks.device)).cpu().numpy()

    def write() -> None:
        rows = gathered[np.lexsort((gathered[:, 1], gathered[:, 0]))]
        users = pq.read_table(trained.data / "users.parquet", columns=["user_id"]).column(0)
        items = pq.read_table(trained.data / "items.parquet", columns=["item_id"]).column(0)
        table = {
            "user_id": users.take(pa.array(rows[:, 0])),
            "item_id": items.take(pa.array(rows[:, 1])),
            "rank": rows[:, 2],
            "candidates": rows[:, 3],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        pq.write_table(pa.table(table), partial)
        partial.replace(path)

    on_main(write)


if __name__ == "__main__":
    cli.run(main)
