"""The one place that puts a model on its ranks: tables to TorchRec, the rest to DeepSpeed."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn
from torchrec.distributed.types import ShardedModule
from torchrec.modules.embedding_modules import EmbeddingCollection

from ppr_dist.config import Config
from ppr_dist.errors import UserError
from ppr_dist.model.tower import DenseTower
from ppr_dist.parallel.cluster import default_cluster, load_cluster
from ppr_dist.parallel.dense import make_engine
from ppr_dist.parallel.mesh import Mesh
from ppr_dist.parallel.sparse import Tables, TableSizes


@dataclasses.dataclass(frozen=True)
class Parallel:
    tables: Tables
    engine: Any
    """DeepSpeed engine holding the dense tower and nothing else."""


def make_tables(sizes: TableSizes, config: Config, mesh: Mesh, *, train_items: bool = True) -> Tables:
    """Plan, shard and initialise the tables."""
    path = config.tables.sharding
    cluster = load_cluster(path) if path else default_cluster(mesh.device.type, mesh.world_size)
    tables = Tables(sizes, config.tables, cluster, mesh.device, train_items=train_items)
    tables.initialise(config.train.seed)
    return tables


def parallelize(
    sizes: TableSizes, tower: DenseTower, config: Config, mesh: Mesh, *, train_items: bool = True
) -> Parallel:
    """Plan → shard → wrap. Raises where a table would reach the engine."""
    refuse_tables(tower)
    if config.train.precision == "bfloat16" and mesh.device.type != "cuda":
        raise UserError("train.precision bfloat16 needs a GPU; use float32")
    if config.loss.precision == "tf32" and mesh.device.type != "cuda":
        raise UserError("loss.precision tf32 needs a GPU; use float32")
    tables = make_tables(sizes, config, mesh, train_items=train_items)
    engine = make_engine(tower.to(mesh.device), config.train, mesh.world_size)
    held = {id(p) for p in engine.module.parameters()}
    if held & {id(p) for p in tables.model.parameters()}:
        raise RuntimeError("a table's parameters reached the DeepSpeed engine")
    return Parallel(tables, engine)


def refuse_tables(module: nn.Module) -> None:
    """Raise where ``module`` holds an embedding table: DeepSpeed would broadcast rank 0's copy over every shard."""
    for name, child in module.named_modules():
        if isinstance(child, EmbeddingCollection | ShardedModule | nn.Embedding | nn.EmbeddingBag):
            raise RuntimeError(f"{name or 'the module'} is an embedding table; tables never enter the DeepSpeed engine")
