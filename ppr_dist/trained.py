"""Bring a trained run back as something that scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ppr_dist import runs
from ppr_dist.build_model import attach, untuned_model
from ppr_dist.checkpoint.loading import load_dense, load_tables
from ppr_dist.checkpoint.position import chosen
from ppr_dist.config import ClusterFile, Config
from ppr_dist.data.item_data import read_item_data
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.remote import here
from ppr_dist.errors import UserError, warn
from ppr_dist.parallel.apply import make_embeddings
from ppr_dist.parallel.cluster import load_cluster
from ppr_dist.parallel.distributed import DistributedContext, on_main
from ppr_dist.parallel.embeddings import ShardedEmbeddings
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


def load_trained(run: Path, data: Path | None, context: DistributedContext, cluster: Path | None = None) -> Trained:
    """Load a run's :func:`chosen` checkpoint for scoring, on any number of ranks. A collective.

    Where it is the best of a validation and not the latest, it says so.

    Args:
        data: the prepared data; by default where the run found it;
        cluster: file (sharding/*.yaml) to place the tables by; by default the run's own, or, where that does not fit
        the machines this runs on, what is seen of these.

    Raises :class:`UserError` where the run, its checkpoint or its data are missing or do not belong together.
    """
    config, info = on_main(lambda: runs.read(run))
    folder = (data or here(info.data)).absolute()  # for pyarrow a relative "shop:v2" is a URL
    manifest = on_main(lambda: load_manifest(folder))
    runs.check_catalogue(info, config, run, manifest, folder)
    checkpoint = on_main(lambda: chosen(run))
    embeddings = _embeddings(run, config, info, context, cluster)
    load_tables(embeddings, checkpoint.path, with_optimizer=False, strict=True)
    embeddings.fill_item_data(read_item_data(folder, manifest, embeddings.sizes.item_data))
    model = untuned_model(config, info.catalogue_for(config))
    attach(model, info.method, config, info.catalogue_for(config))
    load_dense(model.to(context.device).eval(), checkpoint.path)
    if context.main and checkpoint.best:
        print(checkpoint, flush=True)
    return Trained(config, info, manifest, folder, checkpoint.step, ModelScorer(embeddings, model, context.device))


def _embeddings(
    run: Path, config: Config, info: RunInfo, context: DistributedContext, cluster: Path | None
) -> ShardedEmbeddings:
    """Tables to be loaded: planned for ``sharding``, or for the run's own cluster file, or for this machine."""

    def planned(path: Path | None) -> ShardedEmbeddings:
        if path:
            described = on_main(lambda: load_cluster(path))
            if described.compute_device != context.device.type:
                raise UserError(f"{path}: describes {described.compute_device}, and this runs on {context.device.type}")
        # Scoring never updates a table, so the optimizer is the one every device has, which keeps no state; and
        # what travels is not rounded, or ranks would depend on their number.
        chosen_file = ClusterFile(path) if path else None
        changed = dataclasses.replace(config.tables, optimizer="sgd", cluster=chosen_file, exchange="float32")
        return make_embeddings(
            info.table_sizes(config), dataclasses.replace(config, tables=changed), context, train_items=False
        )

    if cluster or not config.tables.cluster:
        return planned(cluster)
    # The run's own first: a table it kept in host memory may fit in no other way.
    try:
        return planned(config.tables.cluster)
    except UserError as error:
        if context.main:
            warn(f"tables are placed otherwise than in training: {error}")
    return planned(None)
