"""``python -m ppr_dist.pretrain``: pre-train a sequential recommender on warm users."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ppr_dist import cli, runs
from ppr_dist.config import Config, parse
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.evaluation import evaluate
from ppr_dist.job import Job, run_job
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.mesh import Mesh, mesh, on_main
from ppr_dist.scoring import ModelScorer
from ppr_dist.trainer import Validate


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
    with mesh() as ranks:
        manifest = on_main(lambda: load_manifest(arguments.data))
        info = runs.describe("pretrain", None, arguments.data, manifest)
        job = Job(
            data=arguments.data,
            run=arguments.run_dir,
            resume=arguments.resume,
            manifest=manifest,
            info=info,
            split="pretrain",
            hold_out=2,
        )
        run_job(job, config, ranks, make_validate=lambda p: _validation(p, arguments.data, manifest, config, ranks))


def _validation(parallel: Parallel, data: Path, manifest: Manifest, config: Config, ranks: Mesh) -> Validate:
    """Full ranking of each warm user's last but one item, which training never sees."""
    scorer = ModelScorer(parallel.tables, parallel.engine, ranks.device)

    def validate() -> dict[str, Any]:
        length = config.model.max_length
        metrics = evaluate(scorer, data, manifest, ranks, task="validation", protocol="full", max_length=length)
        return {f"validation_{name}": value for name, value in metrics.items() if isinstance(value, float)}

    return validate


if __name__ == "__main__":
    cli.run(main)
