"""``python -m ppr_dist.pretrain``: pre-train a sequential recommender on warm users."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ppr_dist import cli
from ppr_dist.config import parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    data: Path
    """Folder that prepare wrote."""
    run_dir: Path
    """Folder for configuration, metrics and checkpoints."""
    resume: bool = False
    """Go on from the run's latest checkpoint, if it has one."""


def main(argv: list[str] | None = None) -> None:
    arguments, config = parse("ppr_dist.pretrain", argv, Arguments)
    # Imported once the options are read: torch, TorchRec and DeepSpeed take seconds, and --help none of them.
    from ppr_dist import runs
    from ppr_dist.data.manifest import load_manifest
    from ppr_dist.job import Job, run_job
    from ppr_dist.parallel.distributed import distributed_context, on_main
    from ppr_dist.run_lock import locked

    with distributed_context() as context, locked(arguments.run_dir, context):
        manifest = on_main(lambda: load_manifest(arguments.data))
        info = runs.describe("pretrain", None, arguments.data, manifest)
        job = Job(
            data=arguments.data,
            run=arguments.run_dir,
            resume=arguments.resume,
            manifest=manifest,
            info=info,
            split="pretrain",
        )
        run_job(job, config, context)


if __name__ == "__main__":
    cli.run(main)
