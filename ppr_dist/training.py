"""Pre-training and tuning, each a script from top to bottom, and what they share."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.distributed as dist

from ppr_dist import preemption, read_config, restarts, run_checks, runs
from ppr_dist.build_model import cloze_of, untuned_model
from ppr_dist.checkpoint import base_checkpoint
from ppr_dist.checkpoint.base_checkpoint import BaseCheckpoint
from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Chosen, Position, checkpoint_of, checkpoints, chosen
from ppr_dist.config import Config
from ppr_dist.data.item_data import read_item_data
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.loader import Loader
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.errors import UserError, choose
from ppr_dist.evaluation import evaluate
from ppr_dist.guards.disk import check_room, checkpoint_bytes
from ppr_dist.guards.dry_step import dry_step, largest_batch
from ppr_dist.guards.hang import time_limit
from ppr_dist.objectives.base import Objective
from ppr_dist.parallel.apply import Parallel, parallelize
from ppr_dist.parallel.distributed import distributed_context, on_main
from ppr_dist.parallel.item_means import begin_as_item_means
from ppr_dist.parallel.step_cost import StepFlops
from ppr_dist.preemption import Preempted, Preemption
from ppr_dist.run_lock import LOCK, locked
from ppr_dist.saved import Saved, attach_to, find_saved, load_model, load_tables_of
from ppr_dist.scoring import ModelScorer
from ppr_dist.step_loss import make_objectives
from ppr_dist.tracking.metric_logger import MetricLogger
from ppr_dist.tracking.profiler import Profile
from ppr_dist.trainer import Validation, total_steps, train
from ppr_dist.training_run import Run, check, check_metric
from ppr_dist.tuning import TUNING_METHODS

if TYPE_CHECKING:
    from ppr_dist import pretrain as pretrain_command
    from ppr_dist import tune as tune_command


def pretrain(arguments: pretrain_command.Arguments, config: Config) -> None:
    """Pre-train a sequential recommender on warm users. A collective."""
    with distributed_context() as context, locked(arguments.run_dir, context):
        manifest = on_main(lambda: load_manifest(arguments.data))
        run = Run(
            folder=arguments.run_dir,
            data=arguments.data,
            resume=arguments.resume or restarts.goes_on(arguments.run_dir),
            manifest=manifest,
            info=dataclasses.replace(
                runs.describe("pretrain", None, arguments.data, manifest),
                splits=list(arguments.split),
                seeds={"pretrain": config.train.seed},
            ),
            split="+".join(arguments.split),
            config=config,
            context=context,
            profile=arguments.profile,
        )
        check(run)
        objectives = make_objectives(config, None, run.catalogue)
        loader = make_loader(run, objectives)
        torch.manual_seed(config.train.seed)
        model = untuned_model(config, run.catalogue)
        parallel = parallelize(run.info.table_sizes(config), model, config, context)
        fill_item_data(run, parallel)
        fit(run, parallel, objectives, loader)


def tune(arguments: tune_command.Arguments, config: Config, asked: dict[str, dict[str, Any]]) -> None:
    """Adapt a pre-trained run to cold users. A collective.

    ``asked``: what the command line says of the model (:func:`ppr_dist.read_config.parse_tuning`).
    """
    choose("--method", arguments.method, TUNING_METHODS)
    with distributed_context() as context, locked(arguments.run_dir, context):
        manifest = on_main(lambda: load_manifest(arguments.data))
        pretrained, pretrained_info = on_main(lambda: runs.read(arguments.init))
        if pretrained_info.method and pretrained_info.method not in TUNING_METHODS[arguments.method].continues:
            raise UserError(
                f"{arguments.init} is a tuned run ({pretrained_info.method}); --init takes a pre-trained one"
            )
        on_main(lambda: _check_data(arguments, pretrained, pretrained_info, manifest))
        config = read_config.same_model(config, asked, pretrained)
        resume = arguments.resume or restarts.goes_on(arguments.run_dir)
        start, base = on_main(lambda: _start(arguments, config, resume=resume))
        info = runs.describe("tune", arguments.method, arguments.data, manifest)
        before = [] if arguments.new_catalogue else pretrained_info.splits
        run = Run(
            folder=arguments.run_dir,
            data=arguments.data,
            resume=resume,
            manifest=manifest,
            info=dataclasses.replace(
                info,
                init=str(arguments.init.resolve()),
                splits=list(dict.fromkeys([*before, *arguments.split])),
                seeds={"pretrain": pretrained.train.seed, "tune": config.train.seed},
                trained_on_validation=pretrained_info.trained_on_validation and not arguments.new_catalogue,
                new_catalogue=arguments.new_catalogue,
                base=base,
            ),
            split="+".join(arguments.split),
            config=config,
            context=context,
            profile=arguments.profile,
        )
        check(run)
        objectives = make_objectives(config, arguments.method, run.catalogue)
        loader = make_loader(run, objectives)
        torch.manual_seed(config.train.seed)
        # Loaded strictly, as it was saved; only then new parts are attached.
        model = load_model(start.with_model(config.model))
        pretrained_parameters = attach_to(model, start, run.info, config)
        parallel = parallelize(
            run.info.table_sizes(config),
            model,
            config,
            context,
            train_items=arguments.new_catalogue or TUNING_METHODS[arguments.method].items_are_trainable(config.tables),
            pretrained=pretrained_parameters,
        )
        if not arguments.new_catalogue:
            same_optimizer = config.tables.optimizer == pretrained.tables.optimizer
            load_tables_of(start, parallel.embeddings, with_optimizer=same_optimizer)
        fill_item_data(run, parallel)
        for use in TUNING_METHODS[arguments.method](config, run.catalogue).begins_as_item_means():
            begin_as_item_means(parallel, use, loader.stream, run.hold_out)
        size = checkpoint_bytes(parallel, frozen=base is None)
        if context.main:
            print(f"from {start.checkpoint}", flush=True)
            alone = f"; a checkpoint holds these alone, {size / 1e3:,.0f} kB" if base else ""
            print(f"{run.name}: {trainable_share(parallel)}{alone}", flush=True)
        fit(run, parallel, objectives, loader)


def fill_item_data(run: Run, parallel: Parallel) -> None:
    """Give each rank its part of what the data knows of items."""
    embeddings = parallel.embeddings
    embeddings.fill_item_data(read_item_data(run.data, run.manifest, embeddings.sizes.item_data))


def _check_data(arguments: tune_command.Arguments, pretrained: Config, info: runs.RunInfo, manifest: Manifest) -> None:
    """Raise :class:`UserError` where the run that ``info`` describes cannot be tuned on the data."""
    of = info, pretrained, arguments.init, manifest, arguments.data
    if arguments.new_catalogue:
        run_checks.check_new_catalogue(*of)
    else:
        run_checks.check_catalogue(*of, otherwise="; with --new-catalogue it is tuned on that, with new tables")
        run_checks.check_held_out(info, arguments.init, manifest, arguments.data)


def _start(arguments: tune_command.Arguments, config: Config, *, resume: bool) -> tuple[Saved, BaseCheckpoint | None]:
    """What is tuned, and what the run's own checkpoints stand on: None where they are whole. On one rank alone."""
    run, start = arguments.run_dir, None
    method = TUNING_METHODS[arguments.method]
    # A new table is the run's own: what may be left out is then what the method freezes besides.
    train_items = method.trains_items if arguments.new_catalogue else method.items_are_trainable(config.tables)
    whole = config.train.save_all or train_items
    if resume and checkpoints(run):
        begun = runs.read(run)[1].base  # what a run began with it goes on with
        if begun and config.train.save_all:
            raise UserError(f"{run} saves only what is trained; it cannot be resumed with train.save_all")
        start, whole = begun and base_checkpoint.find(begun, run, arguments.init), begun is None
    found: Chosen = start or chosen(arguments.init)
    return find_saved(arguments.init, checkpoint=found), None if whole else base_checkpoint.identify(found)


def make_loader(run: Run, objectives: dict[str, Objective]) -> Loader:
    config, context = run.config, run.context
    stream = UserStream(
        run.data,
        run.manifest,
        run.split,
        batch=config.train.global_batch_size,
        rank=context.rank,
        world_size=context.world_size,
        seed=config.train.seed,
        shuffle_shards=config.stream.shuffle_shards,
    )
    on_gpu = context.device.type == "cuda"
    collator = Collator(
        objectives=objectives,
        items=run.manifest.items,
        probability=run.item_shares,
        shown=run.shown_items,
        max_length=config.model.max_length,
        hold_out=run.hold_out,
        first_target=run.first_target,
        last_target=run.last_target,
        last_clicks=config.train.last_clicks,
        cloze=cloze_of(config),
        held_out_below=run.manifest.split("pretrain").users if run.trains_warm else None,
        seed=config.train.seed,
        rank=context.rank,
        world_size=context.world_size,
        target_time=config.model.target_time,
        bucket_tokens=config.stream.bucket_tokens or (65_536 if on_gpu else None),
    )
    return Loader(stream, collator, config.stream.workers, pin=on_gpu)


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


def trainable_share(parallel: Parallel) -> str:
    """Trainable elements and all elements, tables and dense parameters together, in words."""
    dense = list(parallel.engine.module.parameters())

    def size(parameter: torch.nn.Parameter) -> int:
        return int(getattr(parameter, "ds_numel", parameter.numel()))

    embeddings = parallel.embeddings
    trainable = sum(size(p) for p in dense if p.requires_grad) + embeddings.parameters_count(trainable=True)
    total = sum(size(p) for p in dense) + embeddings.parameters_count(trainable=False)
    return f"{trainable:,} of {total:,} parameters are trainable ({trainable / total:.2%})"


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
