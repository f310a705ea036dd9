"""Pre-training and tuning, each a script from top to bottom, and what they share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from ppr_dist import read_config, restarts, run_checks, runs
from ppr_dist.build_model import cloze_of, untuned_model
from ppr_dist.checkpoint import base_checkpoint
from ppr_dist.checkpoint.base_checkpoint import BaseCheckpoint
from ppr_dist.checkpoint.position import Chosen, checkpoints, chosen
from ppr_dist.config import Config
from ppr_dist.data.item_data import read_item_data
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.loader import Loader
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.errors import UserError, choose
from ppr_dist.fit import fit
from ppr_dist.guards.disk import checkpoint_bytes
from ppr_dist.objectives.base import Objective
from ppr_dist.parallel.apply import Parallel, parallelize
from ppr_dist.parallel.distributed import distributed_context, on_main
from ppr_dist.parallel.item_means import begin_as_item_means
from ppr_dist.run_lock import locked
from ppr_dist.saved import Saved, attach_to, find_saved, load_model, load_tables_of
from ppr_dist.step_loss import make_objectives
from ppr_dist.training_run import Run, check
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
                trained_on_validation=config.train.refit,
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
        on_main(lambda: _check_data(arguments, pretrained, pretrained_info, manifest, config))
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


def _check_data(
    arguments: tune_command.Arguments, pretrained: Config, info: runs.RunInfo, manifest: Manifest, config: Config
) -> None:
    """Raise :class:`UserError` where the run that ``info`` describes cannot be tuned on the data by ``config``."""
    of = info, pretrained, arguments.init, manifest, arguments.data
    if arguments.new_catalogue:
        run_checks.check_new_catalogue(*of)
    else:
        run_checks.check_catalogue(*of, otherwise="; with --new-catalogue it is tuned on that, with new tables")
        run_checks.check_held_out(info, arguments.init, manifest, arguments.data)
        run_checks.check_label_tables(info, pretrained, arguments.init, config)


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


def trainable_share(parallel: Parallel) -> str:
    """Trainable elements and all elements, tables and dense parameters together, in words."""
    dense = list(parallel.engine.module.parameters())

    def size(parameter: torch.nn.Parameter) -> int:
        return int(getattr(parameter, "ds_numel", parameter.numel()))

    embeddings = parallel.embeddings
    trainable = sum(size(p) for p in dense if p.requires_grad) + embeddings.parameters_count(trainable=True)
    total = sum(size(p) for p in dense) + embeddings.parameters_count(trainable=False)
    return f"{trainable:,} of {total:,} parameters are trainable ({trainable / total:.2%})"
