"""``python -m ppr_dist.tune``: adapt a pre-trained run to cold users, by prompts or by fine-tuning."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from ppr_dist import cli
from ppr_dist.config import Method, parse_tuning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    data: Path
    """Folder that prepare wrote."""
    init: Path
    """Pre-trained run to start from."""
    method: Method
    """ppr-light: only prompt generator, profile tables and profile tower learn; ppr-full: everything learns;
    fine-tune: everything learns, without prompt."""
    run_dir: Path
    """Folder for configuration, metrics and checkpoints."""
    resume: bool = False
    """Go on from the run's latest checkpoint, if it has one."""
    split: Literal["tune-train", "pretrain"] = "tune-train"
    """Users to tune on."""


def main(argv: list[str] | None = None) -> None:
    arguments, model, config = parse_tuning("ppr_dist.tune", argv, Arguments)
    # Imported once the options are read: torch, TorchRec and DeepSpeed take seconds, and --help none of them.
    from ppr_dist import runs
    from ppr_dist.checkpoint import chosen, load_dense, load_tables
    from ppr_dist.data.manifest import load_manifest
    from ppr_dist.job import Job, check_tunable, run_job, trainable_share
    from ppr_dist.model.tower import DenseTower
    from ppr_dist.parallel.apply import Parallel
    from ppr_dist.parallel.distributed import distributed_context, on_main
    from ppr_dist.run_lock import locked

    with distributed_context() as context, locked(arguments.run_dir, context):
        manifest = on_main(lambda: load_manifest(arguments.data))
        pretrained, pretrained_info = on_main(lambda: runs.read(arguments.init))
        runs.check_catalogue(pretrained_info, arguments.init, manifest, arguments.data)
        on_main(lambda: runs.check_held_out(pretrained_info, arguments.init, manifest, arguments.data))
        start = on_main(lambda: chosen(arguments.init))
        config = dataclasses.replace(config, model=model.of(pretrained.model))
        info = runs.describe("tune", arguments.method, arguments.data, manifest)
        info = dataclasses.replace(info, init=str(arguments.init.resolve()))
        check_tunable(info)
        job = Job(
            data=arguments.data,
            run=arguments.run_dir,
            resume=arguments.resume,
            manifest=manifest,
            info=info,
            split=arguments.split,
        )

        def prepare_tower(tower: DenseTower) -> None:
            load_dense(tower, start.path, strict=False)
            if arguments.method == "ppr-light":
                tower.freeze_backbone()

        def prepare_parallel(parallel: Parallel) -> None:
            same_optimizer = config.tables.optimizer == pretrained.tables.optimizer
            load_tables(parallel.tables, start.path, with_optimizer=same_optimizer)
            share = trainable_share(parallel)
            if context.main:
                print(f"from {start}", flush=True)
                learn = f"{share['trainable']:,} of {share['total']:,} parameters learn ({share['share']:.2%})"
                print(f"{info.method}: {learn}", flush=True)

        run_job(
            job,
            config,
            context,
            prepare_tower=prepare_tower,
            prepare_parallel=prepare_parallel,
            train_items=arguments.method != "ppr-light",
        )


if __name__ == "__main__":
    cli.run(main)
