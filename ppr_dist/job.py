"""What pretrain and tune share: build the stream and the model, train, save."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ppr_dist import runs
from ppr_dist.checkpoint import Checkpointer, Position, checkpoint_of
from ppr_dist.config import Config, Task
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.item_shares import ItemShares
from ppr_dist.data.stream.loader import Loader
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.errors import UserError
from ppr_dist.evaluation import evaluate
from ppr_dist.metric_logger import MetricLogger
from ppr_dist.model.tower import DenseTower
from ppr_dist.parallel.apply import Parallel, parallelize
from ppr_dist.parallel.distributed import DistributedContext, on_main
from ppr_dist.run_lock import LOCK
from ppr_dist.runs import RunInfo
from ppr_dist.scoring import ModelScorer
from ppr_dist.trainer import BEST_METRIC, Validate, seed_everything, total_steps, train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One training run, before anything is built."""

    data: Path
    run: Path
    resume: bool
    manifest: Manifest
    info: RunInfo
    split: str

    @property
    def hold_out(self) -> int:
        """Last interactions of each user kept out of training."""
        return 2 if self.split == "pretrain" else 0

    @property
    def validation(self) -> tuple[Task, str]:
        """Task and split that choose the best checkpoint; training sees none of it."""
        return ("validation", "pretrain") if self.split == "pretrain" else ("few-shot", "tune-validation")


def make_loader(job: Job, config: Config, context: DistributedContext) -> Loader:
    stream = UserStream(
        job.data,
        job.manifest,
        job.split,
        batch=config.train.batch,
        rank=context.rank,
        world_size=context.world_size,
        seed=config.train.seed,
        shuffle_shards=config.stream.shuffle_shards,
    )
    tuning = job.info.job == "tune"
    collator = Collator(
        loss=config.loss,
        items=job.manifest.items,
        probability=ItemShares(job.data, "train" if job.split == "pretrain" else "tune", job.manifest.items),
        max_length=config.model.max_length,
        hold_out=job.hold_out,
        first_target=0 if tuning else 1,
        views=job.info.with_prompt and config.loss.contrastive_weight > 0,
        seed=config.train.seed,
        rank=context.rank,
        world_size=context.world_size,
        bucket_tokens=config.stream.bucket_tokens or (65_536 if context.device.type == "cuda" else None),
    )
    return Loader(stream, collator, config.stream.workers, pin=context.device.type == "cuda")


def make_tower(info: RunInfo, config: Config) -> DenseTower:
    return DenseTower(
        config.model,
        config.prompt,
        attributes=len(info.attributes),
        with_prompt=info.with_prompt,
        with_profile_encoder=info.with_profile_encoder and bool(info.attributes),
    )


def run_job(
    job: Job,
    config: Config,
    context: DistributedContext,
    *,
    prepare_tower: Callable[[DenseTower], None] = lambda tower: None,
    prepare_parallel: Callable[[Parallel], None] = lambda parallel: None,
    train_items: bool = True,
) -> None:
    """Build, resume where asked, train to the end, save. A collective.

    Args:
        prepare_tower: sets initial weights and what stands still, before the engine is made;
        prepare_parallel: sets initial tables, before a checkpoint is resumed.
    """
    check_validation(job, config)
    on_main(lambda: runs.check_new(job.run, config, job.info, resume=job.resume))
    loader = make_loader(job, config, context)
    torch.manual_seed(config.train.seed)
    tower = make_tower(job.info, config)
    prepare_tower(tower)
    parallel = parallelize(job.info.table_sizes(config), tower, config, context, train_items=train_items)
    prepare_parallel(parallel)
    seed_everything(config.train.seed, context.rank)
    checkpointer = Checkpointer(job.run, config.train.keep_checkpoints)
    stream_state = loader.stream.state()
    position = Position(step=0, stream=stream_state, world_size=context.world_size)
    if job.resume:
        position = checkpointer.resume(parallel, stream_state) or position
        check_metric(position, config, job.run)
        if context.main:
            _say_from_where(job.run, position)
    # Only now: a refusal to resume leaves the run's description as it was.
    on_main(lambda: runs.create(job.run, config, job.info, parallel.tables.plan, resume=job.resume))
    on_main(checkpointer.sweep)
    logger = MetricLogger(
        job.run,
        config,
        context,
        total_steps=total_steps(loader, config),
        first_step=position.step,
        job=job.info.method or job.info.job,
    )
    try:
        validate = make_validate(job, config, parallel, context) if config.train.eval_every_epochs else None
        end = train(parallel, loader, config, context, logger, checkpointer, position, validate)
    finally:
        logger.close()
    if context.main:
        print(_summary(job, end, end.step - position.step, logger.loss), flush=True)


def _say_from_where(run: Path, position: Position) -> None:
    if position.step:
        print(f"resumed from step {position.step}: {checkpoint_of(run, position.step)}", flush=True)
    else:
        new = {path.name for path in run.iterdir()} == {LOCK}  # this process has made it
        reason = f"{run} is not there" if new else f"no checkpoint in {run}"
        print(f"ppr_dist: --resume: {reason}: starting at step 0", file=sys.stderr, flush=True)


def _summary(job: Job, end: Position, steps: int, loss: float | None) -> str:
    """One line on what a run came to."""
    did = f"{steps} steps, loss {loss:.4f}" if steps else "nothing left to do"
    text = f"{job.info.method or job.info.job}: {did}, {checkpoint_of(job.run, end.step)}"
    if end.best:
        text += f"; best {end.best.metric} {end.best.value:.4f} at step {end.best.step}"
        text += f", {end.best.since} validations before the last" if end.best.since else ""
    return text


def check_validation(job: Job, config: Config) -> None:
    """Raise :class:`UserError` where validation is asked for and nobody is there to validate on."""
    task, name = job.validation
    split = job.manifest.splits.get(name)
    if config.train.eval_every_epochs and (
        split is None or split.events <= split.users
    ):  # one click each is no history
        raise UserError(
            f"train.eval_every_epochs: {job.data} has no {task} instances in {name}; prepare again with "
            "--tune_validation_fraction 0.1, or tune without validation (--train.eval_every_epochs 0)"
        )


def check_metric(position: Position, config: Config, run: Path) -> None:
    """Raise :class:`UserError` where a resumed run would compare validations by two metrics."""
    metric = config.train.best_metric or BEST_METRIC
    if position.best and config.train.eval_every_epochs and position.best.metric != metric:
        raise UserError(f"{run}: its best is by {position.best.metric}, now train.best_metric is {metric}")


def make_validate(job: Job, config: Config, parallel: Parallel, context: DistributedContext) -> Validate:
    """Rank the job's validation task among the whole catalogue."""
    scorer = ModelScorer(parallel.tables, parallel.engine, context.device)
    task, split = job.validation

    def validate() -> dict[str, float]:
        metrics = evaluate(
            scorer,
            job.data,
            job.manifest,
            context,
            task=task,
            split=split,
            protocol="full",
            max_length=config.model.max_length,
        )
        return {name: value for name, value in metrics.items() if isinstance(value, float)}

    return validate


def trainable_share(parallel: Parallel) -> dict[str, Any]:
    """Elements that learn and all elements, tables and dense tower together."""
    dense = list(parallel.engine.module.parameters())

    def size(parameter: torch.nn.Parameter) -> int:
        return int(getattr(parameter, "ds_numel", parameter.numel()))

    trainable = sum(size(p) for p in dense if p.requires_grad) + parallel.tables.parameters_count(trainable=True)
    total = sum(size(p) for p in dense) + parallel.tables.parameters_count(trainable=False)
    return {"trainable": trainable, "total": total, "share": trainable / total}


def check_tunable(info: RunInfo) -> None:
    if info.with_prompt and not info.attributes:
        raise UserError(f"{info.method} makes prompts of profiles, and the data {info.data} has no attributes")
