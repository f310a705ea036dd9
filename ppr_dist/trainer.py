"""The training loop: one screen, the order of a step in plain sight."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch

from ppr_dist.checkpoint.certificate import Certificate, hash_of_options
from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Best, Position
from ppr_dist.config import Config
from ppr_dist.data.counter_random import bits
from ppr_dist.data.stream.loader import Loader
from ppr_dist.guards import hang
from ppr_dist.guards.finite import FiniteGuard
from ppr_dist.objectives.base import Objective
from ppr_dist.parallel.agreement import Agreement, Signs
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.dense import grad_norm, scale_lr
from ppr_dist.parallel.distributed import DistributedContext, on_main
from ppr_dist.parallel.prefetch import PrefetchedBatch, prefetch
from ppr_dist.preemption import Preemption
from ppr_dist.step_loss import StepLoss, start, step_loss
from ppr_dist.tracking.metric_logger import MetricLogger


@dataclasses.dataclass(frozen=True)
class Validation:
    measure: Callable[[], dict[str, float]]
    """Metrics by name. A collective."""
    metric: str
    """That which is to be highest."""


def train_step(parallel: Parallel, fetched: PrefetchedBatch, objectives: dict[str, Objective]) -> StepLoss:
    """One step: look up, gather, forward, loss, backward (tables are updated here), dense update."""
    items, profiles, labels = parallel.look_up(fetched.look_up)
    started = start(objectives, fetched.batch, items.scored, labels)
    encoded = parallel.engine(items.inputs, fetched.batch, profiles)
    loss = step_loss(objectives, fetched, items.scored, labels, encoded, started)
    parallel.engine.backward(loss.backward)
    parallel.engine.step()
    return loss


def train(
    parallel: Parallel,
    loader: Loader,
    objectives: dict[str, Objective],
    config: Config,
    context: DistributedContext,
    logger: MetricLogger,
    checkpointer: Checkpointer,
    position: Position,
    validation: Validation | None = None,
    preemption: Preemption | None = None,
) -> Position:
    """Train from ``position`` to the end of epochs, steps, minutes or patience; return where it stopped.

    By ``preemption`` also before that end: its ``stops`` says so.
    """
    steps, total = loader.stream.steps, total_steps(loader, config)
    deadline = time.monotonic() + 60 * (config.train.max_minutes or 1e9)
    step, lr, agreement, preemption = position.step, config.train.lr, Agreement(), preemption or Preemption()
    finite = FiniteGuard(checkpointer.run, loader.stream.folder)
    options = on_main(lambda: hash_of_options(checkpointer.run / "config.yaml"))
    certificate = Certificate(position.trained, step, options)

    def raise_failures() -> None:
        checkpointer.finish()
        finite.require_finite()

    def save(*, last: bool = False) -> Position:
        raise_failures()
        saved = dataclasses.replace(position, trained=certificate.up_to(step))
        with logger.paused("checkpoint"):
            checkpointer.save(parallel, saved, last=last)
        return saved

    parallel.engine.train()
    for epoch in range(position.step // steps, -(-total // steps)):
        if step >= total or preemption.stops or _patience_is_out(position, config):
            break
        batches = logger.waiting(loader.epoch(epoch, first_step=step - epoch * steps))
        for fetched in prefetch(batches, parallel.embeddings, objectives, context.device):
            lr = _warm_up(parallel, config, step)
            _seed(config, context, step)
            loss = train_step(parallel, fetched, objectives)
            certificate.add(epoch, step, fetched.batch.users_hash)
            step += 1
            hang.alive()
            finite.note(step, loss, grad_norm(parallel.engine), fetched.batch)
            logger.step(step, epoch, lr, loss, fetched)
            position = dataclasses.replace(position, step=step)
            # What befell any rank, as of the step before: all act on it at the same step.
            said = agreement.exchange(
                Signs(
                    time_is_up=time.monotonic() > deadline,
                    preempted=preemption.asked,
                    not_finite=finite.seen(),
                    checkpoint_failed=checkpointer.failed,
                )
            )
            if said.not_finite or said.checkpoint_failed:
                raise_failures()
            if said.time_is_up:
                total = step
            # Before the checkpoint, so that what is resumed knows of it.
            if validation and (step % (steps * config.train.eval_every_epochs) == 0 or step == total):
                position = _validate(validation, parallel, config, logger, position, epoch)
            if _checkpoint_is_due(config, position, total):
                save()
            ends = step >= total or _patience_is_out(position, config)
            preemption.stops = said.preempted and not ends
            if ends or preemption.stops:
                break  # and the loop over epochs with it
    raise_failures()
    logger.flush(step, position.step // steps, lr)
    return save(last=True)


def total_steps(loader: Loader, config: Config) -> int:
    """Steps of the whole run."""
    total = loader.stream.steps * config.train.epochs
    return min(total, config.train.max_steps) if config.train.max_steps else total


def _warm_up(parallel: Parallel, config: Config, step: int) -> float:
    """Set all learning rates for this step while they still rise; return that of new dense parameters."""
    warm = config.train.warmup_steps
    if step <= warm:
        share = (step + 1) / (warm + 1)
        scale_lr(parallel.engine, share)
        parallel.embeddings.scale_lr(share)
        return config.train.lr * share
    return config.train.lr


def _validate(
    validation: Validation,
    parallel: Parallel,
    config: Config,
    logger: MetricLogger,
    position: Position,
    epoch: int,
) -> Position:
    """Measure, log, and return ``position`` with what is best now. A collective: all ranks take rank 0's word."""
    with logger.paused("validation"):
        parallel.engine.eval()
        metrics = validation.measure()
        parallel.engine.train()
    named = {f"validation_{name}": value for name, value in metrics.items()}
    logger.log({"step": position.step, "epoch": epoch, "target_time": config.model.target_time, **named})
    value, step, best = on_main(lambda: metrics[validation.metric]), position.step, position.best
    best = best.then(value, step) if best else Best(metric=validation.metric, value=value, step=step)
    return dataclasses.replace(position, best=best)


def _checkpoint_is_due(config: Config, position: Position, total: int) -> bool:
    """Whether one is to be written before the run's last: at multiples of steps, and where validation was best."""
    every, step = config.train.checkpoint_every, position.step
    return bool(every and step % every == 0 and step < total) or (
        position.best is not None and position.best.step == step
    )


def _patience_is_out(position: Position, config: Config) -> bool:
    patience = config.train.patience
    return patience is not None and position.best is not None and position.best.since >= patience


def _seed(config: Config, context: DistributedContext, step: int) -> None:
    """Seed torch's generator, which attention dropout and the rounding of float16 tables on a GPU draw from."""
    torch.manual_seed(int(bits(config.train.seed, step, context.rank)[0] >> 1))
