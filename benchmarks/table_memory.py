"""Memory of embedding tables: what a rank holds, and what ``python -m ppr_dist.plan`` says it will hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ppr_dist.parallel.cluster import Cluster
    from ppr_dist.parallel.embeddings import ShardedEmbeddings


def held_bytes(embeddings: ShardedEmbeddings) -> int:
    """Bytes of every tensor that FBGEMM allocated for this rank's shards: weights, optimizer state and bookkeeping.

    Storages are counted once each and whole; no shape or rule of the plan has a part in it.
    """
    storages: dict[int, int] = {}
    for collection in embeddings.model.module.children():
        for lookup in collection._lookups:
            for module in lookup.modules():
                plain = [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
                for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False), *plain):
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def planned_bytes(
    cluster: Cluster, world_size: int, items: int, dim: int, profile_values: int = 0, *, half: bool = False
) -> list[int]:
    """Bytes of weights and optimizer state that the plan gives each rank, [W]; ids in flight are left out."""
    from ppr_dist.catalogue import Catalogue
    from ppr_dist.config import Config, Model, Profiles, Tables
    from ppr_dist.parallel.capacity_planning import Scenario
    from ppr_dist.runs import table_sizes

    tables = Tables(precision="float16" if half else "float32")
    config = Config(model=Model(dim=dim), profiles=Profiles(attribute_dim=dim), tables=tables)
    catalogue = Catalogue(items=items, attributes={"profile": profile_values} if profile_values else {})
    sizes = table_sizes(config, catalogue, "ppr-full")
    scenario = Scenario(cluster=cluster, world_size=world_size, catalogue=catalogue, sizes=sizes, tables=tables)
    described, fault = scenario.plan()
    assert fault is None, fault
    return [
        sum(memory[part] for memory in rank.values() for part in ("weights", "optimizer"))
        for rank in described["ranks"]
    ]
