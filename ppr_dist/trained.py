"""Bring a trained run back as something that scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ppr_dist import runs
from ppr_dist.checkpoint import chosen, load_dense, load_tables
from ppr_dist.config import Config
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.job import make_tower
from ppr_dist.parallel.apply import make_tables
from ppr_dist.parallel.mesh import Mesh, on_main
from ppr_dist.runs import RunInfo
from ppr_dist.scoring import ModelScorer


@dataclasses.dataclass(frozen=True)
class Trained:
    config: Config
    info: RunInfo
    manifest: Manifest
    data: Path
    step: int
    """Of the checkpoint."""
    scorer: ModelScorer


def load_trained(run: Path, data: Path | None, ranks: Mesh) -> Trained:
    """Load a run's :func:`chosen` checkpoint for scoring, on any number of ranks. A collective.

    Where it is the best of a validation and not the latest, it says so.

    Args:
        data: the prepared data; by default where the run found it.

    Raises :class:`UserError` where the run, its checkpoint or its data are missing or do not belong together.
    """
    config, info = on_main(lambda: runs.read(run))
    folder = (data or Path(info.data)).absolute()  # for pyarrow a relative "shop:v2" is a URL
    manifest = on_main(lambda: load_manifest(folder))
    runs.check_catalogue(info, run, manifest, folder)
    checkpoint = on_main(lambda: chosen(run))
    # Scoring never updates a table, so the optimizer is the one every device has and keeps no state; and it may run on
    # other machines than training did, so the plan is made for these.
    config = dataclasses.replace(config, tables=dataclasses.replace(config.tables, optimizer="sgd", sharding=None))
    tables = make_tables(info.table_sizes(config), config, ranks, train_items=False)
    load_tables(tables, checkpoint.path, with_optimizer=False)
    tower = make_tower(info, config).to(ranks.device).eval()
    load_dense(tower, checkpoint.path, strict=True)
    if ranks.main and checkpoint.best:
        print(checkpoint, flush=True)
    return Trained(config, info, manifest, folder, checkpoint.step, ModelScorer(tables, tower, ranks.device))
