"""The one place that puts a model on its ranks: tables to TorchRec, the rest to DeepSpeed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.types import ShardedModule
from torchrec.modules.embedding_modules import EmbeddingCollection

from ppr_dist.config import Config
from ppr_dist.errors import UserError
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.parallel.cluster import Cluster, default_cluster, load_cluster
from ppr_dist.parallel.dense import autocast, make_engine
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.embeddings import PendingLookUp, ShardedEmbeddings
from ppr_dist.parallel.tables import TableSizes


class ItemVectors(NamedTuple):
    """Vectors of a batch's distinct items, [U, D]."""

    inputs: Tensor
    """As histories are made of them."""
    scored: Tensor
    """As users are scored against them."""


@dataclasses.dataclass(frozen=True)
class Parallel:
    embeddings: ShardedEmbeddings
    engine: Any
    """DeepSpeed engine holding the sequential model and nothing else."""

    def look_up(self, pending: PendingLookUp) -> tuple[ItemVectors, dict[str, Tensor], dict[str, Tensor]]:
        """Item vectors as the encoders make them of rows as they stand now, profiles by use and labels by space.

        A collective.
        """
        rows, profiles, labels = self.embeddings.look_up(pending)
        return self.item_vectors(rows), profiles, labels

    def item_vectors(self, rows: Mapping[str, Tensor]) -> ItemVectors:
        """Vectors of the items of which ``rows`` were looked up. A collective at ZeRO 3.

        A call of the engine's submodule: ZeRO's hooks are there and gather its parameters. The engine's own call would
        prepare the backward pass a second time.
        """
        model = self.engine.module
        with autocast(self.engine):
            items = model.item_encoder(rows)
        return ItemVectors(items, model.scored(items))


def make_embeddings(
    sizes: TableSizes,
    config: Config,
    context: DistributedContext,
    *,
    train_items: bool = True,
    items_of: ShardedEmbeddings | None = None,
) -> ShardedEmbeddings:
    """Plan, shard and initialise the tables; ``items_of``: others that have the item table already."""
    path = config.tables.cluster
    cluster = load_cluster(path) if path else default_cluster(context.device.type, context.world_size)
    if path:
        check_launch(cluster, str(path), context.device.type, local_sizes(context))
    embeddings = ShardedEmbeddings(
        sizes, config.tables, cluster, context.device, train_items=train_items, items_of=items_of
    )
    if items_of is None:  # its item table is trained
        embeddings.initialise(config.train.seed)
    return embeddings


def local_sizes(context: DistributedContext) -> list[int]:
    """Ranks on the machine of each rank, by rank, as torchrun started them. A collective."""
    sizes: list[int] = [0] * context.world_size
    dist.all_gather_object(sizes, int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size)))
    return sizes


def check_launch(cluster: Cluster, path: str, device: str, local: list[int]) -> None:
    """Raise :class:`UserError`, on all ranks alike, where a cluster file describes other machines than these.

    Args:
        local: ranks on the machine of each rank. On cuda TorchRec puts rank r's shards on GPU r modulo
            ``ranks_per_node``, so the two must agree; on a CPU any number of ranks will do.
    """
    world_size = len(local)
    fits = cluster.compute_device == device
    if fits and device == "cuda":
        fits = set(local) == {min(cluster.ranks_per_node, world_size)} and world_size <= cluster.world_size
    if not fits:
        each = "/".join(str(size) for size in sorted(set(local)))
        raise UserError(
            f"{path} describes {cluster.nodes} machine(s) of {cluster.ranks_per_node} {cluster.compute_device} ranks; "
            f"this is {world_size} {device} rank(s), {each} per machine: name another tables.cluster, or null for none"
        )


def parallelize(
    sizes: TableSizes,
    model: SequentialModel,
    config: Config,
    context: DistributedContext,
    *,
    train_items: bool = True,
    pretrained: Sequence[nn.Parameter] = (),
) -> Parallel:
    """Plan → shard → wrap. Raises where a table would reach the engine.

    ``pretrained``: parameters of ``model`` that learn at ``train.pretrained_lr``.
    """
    refuse_tables(model)
    if config.train.precision == "bfloat16" and context.device.type != "cuda":
        raise UserError("train.precision bfloat16 needs a GPU; use float32")
    if config.loss.precision == "tf32" and context.device.type != "cuda":
        raise UserError("loss.precision tf32 needs a GPU; use float32")
    embeddings = make_embeddings(sizes, config, context, train_items=train_items)
    engine = make_engine(model.to(context.device), config.train, context.world_size, pretrained)
    held = {id(p) for p in engine.module.parameters()}
    if held & {id(p) for p in embeddings.model.parameters()}:
        raise RuntimeError("a table's parameters reached the DeepSpeed engine")
    return Parallel(embeddings, engine)


def refuse_tables(module: nn.Module) -> None:
    """Raise where ``module`` holds an embedding table: DeepSpeed would broadcast rank 0's copy over every shard."""
    for name, child in module.named_modules():
        if isinstance(child, EmbeddingCollection | ShardedModule | nn.Embedding | nn.EmbeddingBag):
            raise RuntimeError(f"{name or 'the module'} is an embedding table; tables never enter the DeepSpeed engine")
