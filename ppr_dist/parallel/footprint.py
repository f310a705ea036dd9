"""A sharding plan in bytes: what each rank holds of each table, by memory and by part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torchrec.distributed.types import ParameterSharding, ShardingPlan
from torchrec.modules.embedding_configs import BaseEmbeddingConfig, data_type_to_dtype

from ppr_dist.errors import UserError
from ppr_dist.parallel.cluster import ITEM_DATA, Cluster, TableConstraint

OPTIMIZER_STATE = {
    "exact_sgd": (0, 0),
    "exact_row_wise_adagrad": (0, 4),
    "exact_adagrad": (4, 0),
    "adam": (8, 0),
    "partial_row_wise_adam": (4, 4),
}
"""Float32 bytes FBGEMM keeps (per weight, per row of a shard), whatever the weights' own type."""


def state_bytes(optimizer: str, table: str, rows: int, columns: int) -> int:
    """Bytes of optimizer state for a shard of [rows, columns]; ``optimizer`` is an ``EmbOptimType`` value."""
    if table == ITEM_DATA:  # frozen
        return 0
    per_weight, per_row = OPTIMIZER_STATE[optimizer]
    return rows * (columns * per_weight + per_row)


def _add(
    part: dict[str, dict[str, int]],
    table: str,
    how: ParameterSharding,
    own: TableConstraint,
    optimizer: str,
    shard: tuple[int, int, int],
    device: str,
    world_size: int,
) -> None:
    """Add one shard (rows, columns, bytes per weight) of a table placed as ``how`` to a rank's bytes."""
    rows, columns, element = shard
    home = "host" if "uvm" in how.compute_kernel else device
    part[home]["weights"] += rows * columns * element
    part[home]["optimizer"] += state_bytes(optimizer, table, rows, columns)
    if how.compute_kernel == "fused_uvm_caching":  # rows, and to find them 4 bytes a row and 16 a cache slot
        load = own.cache_load_factor
        part["hbm"]["cache"] += math.ceil(rows * columns * element * load) + math.ceil(rows * (4 + 16 * load))
    # Row-wise, ids spread over the ranks; otherwise one rank serves the ids of all W.
    ids = own.ids_per_step * (1 if how.sharding_type == "row_wise" else world_size)
    part[device]["io"] += math.ceil(ids * 8) + math.ceil(ids * columns * element)


def describe_plan(
    plan: ShardingPlan,
    tables: Sequence[BaseEmbeddingConfig],
    optimizer: str,
    cluster: Cluster,
    world_size: int,
) -> dict[str, Any]:
    """Say a plan in plain data that ``json.dumps`` takes.

    ``tables``: each table with its sharding_type, compute_kernel, dtype and shards as [rank, rows, columns].
    ``ranks``: per rank, bytes of hbm and host memory by part: weights, optimizer, cache (hbm copy of host
    rows) and io (the planner's estimate of ids and vectors in flight per step), and their total. ``largest``
    and ``mean``: bytes per rank of each memory. ``notes``: what a reader should know.
    ``optimizer`` is an ``EmbOptimType`` value. Raises UserError for a table the plan lacks.
    """
    placed: dict[str, ParameterSharding] = {n: p for part in plan.plan.values() for n, p in part.items()}
    parts = ("weights", "optimizer", "cache", "io")
    ranks = [{m: dict.fromkeys(parts, 0) for m in ("hbm", "host")} for _ in range(world_size)]
    described, notes = [], []
    for table in tables:
        if table.name not in placed:
            raise UserError(f"the plan has no table {table.name!r}; it has {', '.join(placed)}")
        how, own, shards = placed[table.name], cluster.constraint(table.name), []
        element = data_type_to_dtype(table.data_type).itemsize
        device = "host" if cluster.compute_device == "cpu" else "hbm"
        for shard in how.sharding_spec.shards:
            rank, (rows, columns) = shard.placement.rank(), shard.shard_sizes
            shards.append([rank, rows, columns])
            _add(ranks[rank], table.name, how, own, optimizer, (rows, columns, element), device, world_size)
        described.append(
            {
                "name": table.name,
                "rows": table.num_embeddings,
                "columns": table.embedding_dim,
                "dtype": table.data_type.value.lower(),
                "sharding_type": how.sharding_type,
                "compute_kernel": how.compute_kernel,
                "shards": shards,
            }
        )
        if how.sharding_type not in own.sharding_types:
            notes.append(f"{table.name}: too few rows for row_wise on {world_size} ranks; one rank holds it")
        if len(shards) > 1 and how.sharding_type == "column_wise" and OPTIMIZER_STATE[optimizer][1]:
            notes.append(f"{table.name}: each column shard has row state of its own: updates depend on their number")
    totals = [{m: sum(by.values()) for m, by in rank.items()} for rank in ranks]
    return {
        "cluster": cluster.name,
        "world_size": world_size,
        "optimizer": optimizer,
        "usable_bytes_per_rank": cluster.usable(),
        "tables": described,
        "ranks": [{m: {**p, "total": totals[i][m]} for m, p in rank.items()} for i, rank in enumerate(ranks)],
        "largest": {m: max(t[m] for t in totals) for m in ("hbm", "host")},
        "mean": {m: sum(t[m] for t in totals) / world_size for m in ("hbm", "host")},
        "notes": notes,
    }
