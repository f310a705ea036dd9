"""Evaluation of one task under one protocol, exact over any number of ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from ppr_dist import files, run_checks, runs
from ppr_dist.baselines import baseline_scorer
from ppr_dist.config import Config
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.errors import UserError, choose
from ppr_dist.guards import hang
from ppr_dist.metrics import METRICS, USUAL
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.parallel.collectives import all_sum
from ppr_dist.parallel.distributed import DistributedContext, distributed_context, on_main
from ppr_dist.parquet_writer import data_set
from ppr_dist.passport import passport
from ppr_dist.predictions import Predictions, predictions_writer
from ppr_dist.scoring import Scorer
from ppr_dist.tasks import TASKS
from ppr_dist.tasks.base import Evaluated, Evaluation
from ppr_dist.tracking.evaluations import log_evaluations

if TYPE_CHECKING:
    from ppr_dist.evaluate import Arguments


@torch.no_grad()
def evaluate(
    scorer: Scorer,
    folder: Path,
    manifest: Manifest,
    context: DistributedContext,
    *,
    task: str,
    protocol: str,
    config: Config,
    split: str | None = None,
    metrics: tuple[str, ...] = USUAL,
    seed: int = 0,
    batch: int = 1024,
    seen_targets: bool = True,
    target_time: bool | None = None,
    keep: Callable[[Evaluated], None] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure ``task`` on every user of its split; return the metrics over all ranks. A collective.

    Memory does not grow with users or ranks.

    Args:
        split: by default the task's; seed: of the sampled negatives; batch: users each rank reads at once;
        seen_targets: whether targets that the user had clicked before are ranked too; target_time: whether the model
        sees when the target was clicked, by default as it was trained; keep: hears this rank's instances, block after
        block. Ranks hold consecutive users, so that the blocks of all ranks, rank after rank, are in the order of
        (user index, position).

    Raises :class:`UserError` where the split has no instances, or none leaves enough items to sample from.
    """
    question = TASKS[task]
    if target_time and not (manifest.times and BACKBONES[config.model.backbone].reads_times):
        raise UserError("--target-time: the data has no times, or the run's backbone reads none")
    evaluation = Evaluation(
        task=task,
        scorer=scorer,
        data=folder,
        manifest=manifest,
        protocol=protocol,
        config=config,
        metrics=tuple(dict.fromkeys(metrics)),  # named twice, one would be added up twice
        split=split or question.split,
        seed=seed,
        seen_targets=seen_targets,
        target_time=config.model.target_time if target_time is None else target_time,
        keep=keep,
        speaks=context.main,
    )
    steps, parts = users_in_order(
        folder, manifest, evaluation.split, rank=context.rank, world_size=context.world_size, at_once=max(1, batch)
    )
    total: dict[str, torch.Tensor] = {}
    hidden = None if progress and context.main else True
    for users in tqdm(parts, total=steps, desc=f"{task} {protocol}", disable=hidden):
        hang.alive()
        for name, value in question.sums(evaluation, users).items():
            total[name] = total[name] + value if name in total else value
    summed = {name: all_sum(value.to(context.device)).cpu() for name, value in total.items()}
    figures = question.finish(evaluation, summed)
    how = {"task": task, "protocol": question.protocol or protocol}
    return how | figures | {"target_time": evaluation.target_time and question.has_targets}


def evaluate_run(arguments: Arguments) -> list[dict[str, Any]]:
    """Evaluate a run as its options say; return the lines that were printed. A collective."""
    from ppr_dist.trained import load_trained

    for name in arguments.task:
        choose("--task", name, TASKS)
    for name in arguments.metrics or ():
        choose("--metrics", name, METRICS)
        if METRICS[name].needs_best and arguments.protocol != "full":
            raise UserError(f"--metrics {name} looks at the best items of the whole catalogue: add --protocol full")
    if arguments.predictions and len(arguments.task) > 1:
        raise UserError("--predictions holds one task; evaluate the others in commands of their own")
    if arguments.predictions and TASKS[arguments.task[0]].protocol:
        raise UserError(f"--predictions holds ranks of items, and task {arguments.task[0]} ranks none")
    rows = []
    with distributed_context() as context, contextlib.ExitStack() as stack:
        on_main(lambda: files.check_writable(arguments.run_dir))
        folder = stack.enter_context(data_set(arguments.predictions, context)) if arguments.predictions else None
        config, _ = on_main(lambda: runs.read(arguments.run_dir))
        for task in arguments.task:
            TASKS[task].check(config, by_model=arguments.baseline is None)
        trained = load_trained(arguments.run_dir, arguments.data, context, arguments.cluster, arguments.init)
        if any(TASKS[task].cold for task in arguments.task):
            on_main(lambda: run_checks.check_held_out(trained.info, arguments.run_dir, trained.manifest, trained.data))
        scorer: Scorer = trained.scorer
        if arguments.baseline:
            scorer = baseline_scorer(arguments.baseline, trained.data, trained.manifest, context, arguments.batch)
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
                config=trained.config,
                metrics=tuple(arguments.metrics or USUAL),
                seed=arguments.seed,
                batch=arguments.batch,
                seen_targets=not arguments.leave_out_seen,
                target_time=arguments.target_time,
                keep=keep,
                progress=arguments.progress,
            )
            method = arguments.baseline or trained.info.method or "pre-train"
            asked = {"method": method, "seed": arguments.seed, "leave_out_seen": arguments.leave_out_seen}
            of: dict[str, Any] = {"run": str(arguments.run_dir.resolve()), "step": trained.step}
            of |= {"data": trained.manifest.fingerprint}
            for line in TASKS[task].lines(metrics, arguments.protocol):
                measured = passport(trained.manifest, trained.info, arguments, TASKS[task], line)
                rows.append({**line, **asked, **of, "passport": dataclasses.asdict(measured)})
                if context.main:
                    files.append_line(arguments.run_dir / "evaluations.jsonl", rows[-1])
                    print(json.dumps(rows[-1]), flush=True)
        if context.main:
            stage = trained.info.method or trained.info.stage
            log_evaluations(arguments.run_dir, config, stage, rows, arguments.baseline)
    return rows
