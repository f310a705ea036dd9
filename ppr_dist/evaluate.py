"""``python -m ppr_dist.evaluate``: rank held-out clicks, print one JSON line, write predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Literal

from ppr_dist import cli
from ppr_dist.config import Task, parse
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    run_dir: Path
    """A pre-trained or tuned run."""
    task: list[Task]
    """few-shot, zero-shot, joint (cold test users), next-item, validation (warm users); one or several."""
    data: Path | None = None
    """Folder that prepare wrote; by default the one the run was trained on."""
    sharding: Path | None = None
    """Cluster file (sharding/*.yaml) to place the tables by; by default the run's own, else what this machine has."""
    protocol: Literal["sampled-99", "full"] = "sampled-99"
    """Rank among 99 uniform unclicked items, or among the whole catalogue but what the user had seen."""
    predictions: Path | None = None
    """Parquet data set to write, a folder of part files: user_id, position (clicks before the target), item_id, rank
    (1 = best), candidates; in the order of user index and position."""
    baseline: Literal["popularity"] | None = None
    """Score by this baseline in place of the model."""
    leave_out_seen: bool = False
    """Leave out instances whose target the user had clicked before; how many there are is said either way."""
    batch: int = 1024
    """Users each rank reads at once."""
    seed: int = 0
    """Seed of the sampled negatives."""
    progress: bool = True
    """Show a progress bar on rank 0."""


def main(argv: list[str] | None = None) -> None:
    arguments, _ = parse("ppr_dist.evaluate", argv, Arguments, with_config=False)
    if arguments.predictions and len(arguments.task) > 1:
        raise UserError("--predictions holds one task; evaluate the others in commands of their own")
    # Imported once the options are read: torch, TorchRec and DeepSpeed take seconds, and --help none of them.
    import numpy as np
    import torch

    from ppr_dist import files, runs
    from ppr_dist.evaluation import evaluate
    from ppr_dist.parallel.distributed import distributed_context, on_main
    from ppr_dist.parts import data_set
    from ppr_dist.predictions import Predictions, predictions_writer
    from ppr_dist.scoring import PopularityScorer, Scorer
    from ppr_dist.trained import load_trained

    with distributed_context() as context, contextlib.ExitStack() as stack:
        on_main(lambda: files.check_writable(arguments.run_dir))
        folder = stack.enter_context(data_set(arguments.predictions, context)) if arguments.predictions else None
        trained = load_trained(arguments.run_dir, arguments.data, context, arguments.sharding)
        if not set(arguments.task) <= {"next-item", "validation"}:
            on_main(lambda: runs.check_held_out(trained.info, arguments.run_dir, trained.manifest, trained.data))
        scorer: Scorer = trained.scorer
        if arguments.baseline == "popularity":
            counts = torch.from_numpy(runs.item_counts(trained.data, "train_count").astype(np.float32))
            scorer = PopularityScorer(counts.to(context.device), context.device)
        keep = None
        if folder:
            parts = stack.enter_context(predictions_writer(folder, trained.manifest, context))
            keep = Predictions(parts, trained.data).keep
        for task in arguments.task:
            metrics = evaluate(
                scorer,
                trained.data,
                trained.manifest,
                context,
                task=task,
                protocol=arguments.protocol,
                max_length=trained.config.model.max_length,
                seed=arguments.seed,
                batch=arguments.batch,
                seen_targets=not arguments.leave_out_seen,
                keep=keep,
                progress=arguments.progress,
            )
            if context.main:
                method = arguments.baseline or trained.info.method or "pre-train"
                asked = {"method": method, "seed": arguments.seed, "leave_out_seen": arguments.leave_out_seen}
                of = {"run": str(arguments.run_dir.resolve()), "step": trained.step}
                row = {**metrics, **asked, **of, "data": trained.manifest.fingerprint}
                files.append_line(arguments.run_dir / "evaluations.jsonl", row)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    cli.run(main)
