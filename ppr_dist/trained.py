"""Bring a trained run back as something that scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ppr_dist import runs
from ppr_dist.checkpoint import chosen, load_dense, load_tables
from ppr_dist.config import ClusterFile, Config
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.errors import UserError, warn
from ppr_dist.job import make_tower
from ppr_dist.parallel.apply import make_tables
from ppr_dist.parallel.cluster import load_cluster
from ppr_dist.parallel.distributed import DistributedContext, on_main
from ppr_dist.parallel.sparse import Tables
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


def load_trained(run: Path, data: Path | None, context: DistributedContext, sharding: Path | None = None) -> Trained:
    """Load a run's :func:`chosen` checkpoint for scoring, on any number of ranks. A collective.

    Where it is the best of a validation and not the latest, it says so.

    Args:
        data: the prepared data; by default where the run found it;
        sharding: cluster file to place the tables by; by default the run's own, or, where that does not fit the
        machines this runs on, what is seen of these.

    Raises :class:`UserError` where the run, its checkpoint or its data are missing or do not belong together.
    """
    config, info = on_main(lambda: runs.read(run))
    folder = (data or Path(info.data)).absolute()  # for pyarrow a relative "shop:v2" is a URL
    manifest = on_main(lambda: load_manifest(folder))
    runs.check_catalogue(info, run, manifest, folder)
    checkpoint = on_main(lambda: chosen(run))
    tables = _tables(run, config, info, context, sharding)
    load_tables(tables, checkpoint.path, with_optimizer=False)
    tower = make_tower(info, config).to(context.device).eval()
    load_dense(tower, checkpoint.path, strict=True)
    if context.main and checkpoint.best:
        print(checkpoint, flush=True)
    return Trained(config, info, manifest, folder, checkpoint.step, ModelScorer(tables, tower, context.device))


def _tables(run: Path, config: Config, info: RunInfo, context: DistributedContext, sharding: Path | None) -> Tables:
    """Tables to be loaded: planned for ``sharding``, or for the run's own cluster file, or for this machine."""

    def planned(path: Path | None) -> Tables:
        if path:
            cluster = on_main(lambda: load_cluster(path))
            if cluster.compute_device != context.device.type:
                raise UserError(f"{path}: describes {cluster.compute_device}, and this runs on {context.device.type}")
        # Scoring never updates a table, so the optimizer is the one every device has, which keeps no state; and
        # what travels is not rounded, or ranks would depend on their number.
        chosen_file = ClusterFile(path) if path else None
        changed = dataclasses.replace(config.tables, optimizer="sgd", sharding=chosen_file, exchange="float32")
        return make_tables(
            info.table_sizes(config), dataclasses.replace(config, tables=changed), context, train_items=False
        )

    if sharding or not config.tables.sharding:
        return planned(sharding)
    # The run's own first: a table it kept in host memory may fit in no other way.
    try:
        return planned(config.tables.sharding)
    except UserError as error:
        if context.main:
            warn(f"tables are placed otherwise than in training: {error}")
    return planned(None)
