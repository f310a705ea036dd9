"""From a run whose parts are made to its end: resume where asked, train, save, say what it came to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from ppr_dist import preemption, restarts, runs
from ppr_dist.checkpoint import base_checkpoint
from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Position, checkpoint_of, checkpoints
from ppr_dist.data.stream.loader import Loader
from ppr_dist.evaluation import evaluate
from ppr_dist.guards.disk import check_room
from ppr_dist.guards.dry_step import dry_step, largest_batch
from ppr_dist.guards.hang import time_limit
from ppr_dist.objectives.base import Objective
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.distributed import on_main
from ppr_dist.parallel.step_cost import StepFlops
from ppr_dist.preemption import Preempted, Preemption
from ppr_dist.run_lock import LOCK
from ppr_dist.scoring import ModelScorer
from ppr_dist.tracking.metric_logger import MetricLogger
from ppr_dist.tracking.profiler import Profile
from ppr_dist.trainer import Validation, total_steps, train
from ppr_dist.training_run import Run, check_metric


def fit(run: Run, parallel: Parallel, objectives: dict[str, Objective], loader: Loader) -> None:
    """Resume where asked, train to the end, save. A collective."""
    config, context = run.config, run.context
    checkpointer = Checkpointer(
        run.folder,
        config.train.keep_checkpoints,
        keep_every=config.train.keep_every,
        asynchronous=config.train.async_checkpoint,
        go_on_where_it_fails=config.train.on_failed_checkpoint == "continue",
        frozen=run.info.base is None,
    )
    stream_state = loader.stream.state()
    position = Position(step=0, stream=stream_state, world_size=context.world_size)
    if run.resume:
        position = checkpointer.resume(parallel, stream_state) or position
        check_metric(run, position)
        if context.main:
            _say_from_where(run.folder, position)
    if position.step < total_steps(loader, config):
        check_room(run.folder, parallel, config.train, frozen=run.info.base is None)
    if config.train.dry_step:
        with time_limit(config.train.hang_minutes, run.folder, context.rank):
            dry_step(parallel, largest_batch(loader), objectives, context, config.train.precision)
    # Only now: a refusal to resume, or a step that does not fit, leaves the run's description as it was.
    on_main(lambda: _describe(run, parallel.embeddings.plan))
    on_main(checkpointer.sweep)
    restarts.note_begun(run.folder)
    steps = total_steps(loader, config)
    logger = MetricLogger(
        run.folder,
        config,
        context,
        parallel,
        total_steps=steps,
        first_step=position.step,
        stage=run.name,
        flops=StepFlops(config, run.catalogue, run.info.method),
        profile=Profile(run.folder, context, parallel, steps - position.step) if run.profile else None,
    )
    end = None
    with Preemption() as told:
        on_main(lambda: preemption.forget(run.folder))  # only now: from here on a signal leaves a new one
        try:
            validation = make_validation(run, parallel) if config.train.eval_every_epochs else None
            with time_limit(config.train.hang_minutes, run.folder, context.rank):
                end = train(
                    parallel, loader, objectives, config, context, logger, checkpointer, position, validation, told
                )
        except BaseException:
            checkpointer.settle()
            raise
        finally:
            logger.close(end.step if end else None)  # where training failed, nobody knows as of which step
        if told.stops:
            _leave_preempted(run, end, told)
    if context.main:
        print(_summary(run, end, end.step - position.step, logger.loss), flush=True)


def _describe(run: Run, plan: dict[str, Any]) -> None:
    """Write the run's description, and of one that begins where it is looked for what it stands on."""
    if run.info.base and not checkpoints(run.folder):
        base_checkpoint.keep(run.info.base, run.folder)
    runs.create(run.folder, run.config, run.info, plan, resume=run.resume)


def make_validation(run: Run, parallel: Parallel) -> Validation:
    """Rank the run's validation task among the whole catalogue."""
    task, split = run.validation

    def validate() -> dict[str, float]:
        metrics = evaluate(
            ModelScorer(parallel.embeddings, parallel.engine, run.context.device),
            run.data,
            run.manifest,
            run.context,
            task=task,
            split=split,
            protocol="full",
            config=run.config,
        )
        return {name: value for name, value in metrics.items() if isinstance(value, float)}

    return Validation(validate, run.best_metric)


def _say_from_where(folder: Path, position: Position) -> None:
    if position.step:
        print(f"resumed from step {position.step}: {checkpoint_of(folder, position.step)}", flush=True)
    else:
        new = {path.name for path in folder.iterdir()} == {LOCK}  # this process has made it
        reason = f"{folder} is not there" if new else f"no checkpoint in {folder}"
        print(f"ppr_dist: --resume: {reason}: starting at step 0", file=sys.stderr, flush=True)


def _leave_preempted(run: Run, end: Position, told: Preemption) -> NoReturn:
    """Write ``RUN/preempted`` and raise :class:`Preempted` on all ranks, also where one alone had the signal."""
    names: list[str | None] = [None] * run.context.world_size
    dist.all_gather_object(names, told.signal)
    name = next(name for name in names if name)
    on_main(lambda: preemption.write(run.folder, name, end.step))  # all wait: torchrun ends the others with the first
    raise Preempted(f"{name}: stopped after step {end.step}, {checkpoint_of(run.folder, end.step)}; --resume goes on")


def _summary(run: Run, end: Position, steps: int, loss: float | None) -> str:
    """One line on what a run came to."""
    did = f"{steps} steps, loss {loss:.4f}" if steps else "nothing left to do"
    text = f"{run.name}: {did}, {checkpoint_of(run.folder, end.step)}"
    if end.best:
        text += f"; best {end.best.metric} {end.best.value:.4f} at step {end.best.step}"
        text += f", {end.best.since} validations before the last" if end.best.since else ""
    return text
