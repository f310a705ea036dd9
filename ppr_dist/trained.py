"""Bring a trained run back as something that scores."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from ppr_dist import run_checks
from ppr_dist.checkpoint.loading import load_tables
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
from ppr_dist.saved import find_saved, load_model, load_tables_of
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


def load_trained(
    run: Path,
    data: Path | None,
    context: DistributedContext,
    cluster: Path | None = None,
    init: Path | None = None,
) -> Trained:
    """Load a run's :func:`chosen` checkpoint for scoring, on any number of ranks. A collective.

    Where it is the best of a validation and not the latest, it says so.

    Args:
        data: the prepared data; by default where the run found it;
        cluster: file (sharding/*.yaml) to place the tables by; by default the run's own, or, where that does not fit
        the machines this runs on, what is seen of these;
        init: the pre-trained run, where what was tuned stands on one that no longer lies where it was.

    Raises :class:`UserError` where the run, its checkpoint or its data are missing or do not belong together.
    """
    saved = on_main(lambda: find_saved(run, init))
    config, info, checkpoint = saved.config, saved.info, saved.checkpoint
    folder = (data or here(info.data)).absolute()  # for pyarrow a relative "shop:v2" is a URL
    manifest = on_main(lambda: load_manifest(folder))
    run_checks.check_catalogue(info, config, run, manifest, folder)
    embeddings = _embeddings(run, config, info, context, cluster)
    load_tables_of(saved, embeddings, strict=True)
    embeddings.fill_item_data(read_item_data(folder, manifest, embeddings.sizes.item_data))
    model = load_model(saved).to(context.device).eval()
    if context.main and checkpoint.best:
        print(checkpoint, flush=True)
    return Trained(config, info, manifest, folder, checkpoint.step, ModelScorer(embeddings, model, context.device))


def load_several(
    tuned: Sequence[Path],
    data: Path | None,
    context: DistributedContext,
    cluster: Path | None = None,
    init: Path | None = None,
) -> list[Trained]:
    """Load several tuned runs that stand on one checkpoint of a pre-trained run, which is in memory once. A collective.

    Each gives what :func:`load_trained` gives of it alone, to the bit; they share the item table and all parameters
    that tuning froze. Arguments as there; raises :class:`UserError` where one stands on another checkpoint, or on none.
    """
    found = on_main(lambda: [find_saved(run, init) for run in tuned])
    root = found[0].root
    for saved in found:
        if saved.base is None or saved.root.checkpoint.path.resolve() != root.checkpoint.path.resolve():
            raise UserError(f"{saved.run} does not stand on {root.checkpoint.path}: load it alone")
        if saved.info.new_catalogue:
            raise UserError(
                f"{saved.run} has another catalogue than {root.run}, whose tables are shared: load it alone"
            )
    shared = _embeddings(root.run, root.config, root.info, context, cluster)
    load_tables_of(root, shared, strict=True)
    at = (data or here(root.info.data)).absolute()
    shared.fill_item_data(read_item_data(at, on_main(lambda: load_manifest(at)), shared.sizes.item_data))
    known = {root.checkpoint.path.resolve(): load_model(root).to(context.device).eval()}
    trained = []
    for saved in found:
        config, info, embeddings = saved.config, saved.info, shared
        folder = (data or here(info.data)).absolute()
        manifest = on_main(functools.partial(load_manifest, folder))
        run_checks.check_catalogue(info, config, saved.run, manifest, folder)
        sizes = info.table_sizes(config)
        if sizes.reference_items:
            raise UserError(f"{saved.run}: {info.method} looks up items of its own in every batch: load it alone")
        if sizes.uses or sizes.labels:
            embeddings = _embeddings(saved.run, config, info, context, cluster, items_of=shared)
            load_tables(embeddings, saved.checkpoint.path, with_optimizer=False, strict=True, items=False)
        model = load_model(saved, known).to(context.device).eval()
        scorer = ModelScorer(embeddings, model, context.device)
        trained.append(Trained(config, info, manifest, folder, saved.checkpoint.step, scorer))
    return trained


def _embeddings(
    run: Path,
    config: Config,
    info: RunInfo,
    context: DistributedContext,
    cluster: Path | None,
    items_of: ShardedEmbeddings | None = None,
) -> ShardedEmbeddings:
    """Tables to be loaded: planned for ``cluster``, or for the run's own cluster file, or for this machine."""

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
            info.table_sizes(config),
            dataclasses.replace(config, tables=changed),
            context,
            train_items=False,
            items_of=items_of,
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
