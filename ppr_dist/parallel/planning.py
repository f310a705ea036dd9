"""Which rank holds which part of which embedding table: TorchRec's planner, and its plan in bytes.

Names: W ranks; a *shard* is the [rows, columns] block of a table that one rank holds. Everything here is
arithmetic on shapes: tables may live on the meta device, and no accelerator is needed to plan for one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch.distributed as dist
from torch import nn
from torchrec.distributed.collective_utils import invoke_on_rank_and_broadcast_result
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.constants import DEFAULT_PERF_ESTIMATOR
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.estimator import EmbeddingPerfEstimatorFactory
from torchrec.distributed.planner.shard_estimators import EmbeddingStorageEstimator
from torchrec.distributed.planner.stats import NoopEmbeddingStats
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    HardwareConfig,
    KernelConfig,
    ParameterConstraints,
    PerfModel,
    PlannerError,
    ShardingOption,
    Storage,
    Topology,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import CacheParams, ModuleSharder, ShardingPlan

from ppr_dist.errors import UserError
from ppr_dist.parallel.cluster import GIB, Cluster
from ppr_dist.parallel.footprint import OPTIMIZER_STATE, state_bytes

UNLIMITED_GB = 2.0**20


class DoesNotFitError(UserError):
    """The tables need more memory than a rank has.

    ``plan`` is the leanest plan the constraints allow, ``memory`` (hbm or host) what runs out, and
    ``short_bytes`` how much of it the fullest rank lacks.
    """

    plan: ShardingPlan
    memory: str
    short_bytes: int


class _StorageEstimator(EmbeddingStorageEstimator):  # type: ignore[misc]
    """TorchRec's estimate plus optimizer state, which it knows only for apply_optimizer_in_backward."""

    def __init__(self, topology: Topology, constraints: dict[str, ParameterConstraints], optimizer: str) -> None:
        super().__init__(topology=topology, constraints=constraints)
        self._optimizer = optimizer

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: Any) -> None:
        super().estimate(sharding_options, sharder_data_map)
        for option in sharding_options:
            host = self._topology.compute_device == "cpu" or "uvm" in option.compute_kernel
            for shard in option.shards:
                state = state_bytes(self._optimizer, option.name, *shard.size)
                shard.storage += Storage(hbm=0 if host else state, ddr=state if host else 0)


class _FullestRank(PerfModel):  # type: ignore[misc]
    """Rates a plan by how full its fullest rank is, so that the planner looks for the leanest plan."""

    def __init__(self, usable: dict[str, int]) -> None:
        self._usable = usable

    def rate(self, plan: list[ShardingOption]) -> float:
        used = _used(plan)
        return max(used[m][r] / self._usable[m] for m in used for r in used[m] if self._usable[m])


def _used(options: Iterable[ShardingOption]) -> dict[str, dict[int, int]]:
    """Bytes by memory and rank that the planner counts for ``options``."""
    used: dict[str, dict[int, int]] = {"hbm": {}, "host": {}}
    for shard in (shard for option in options for shard in option.shards):
        for memory, count in (("hbm", shard.storage.hbm), ("host", shard.storage.ddr)):
            used[memory][shard.rank] = used[memory].get(shard.rank, 0) + count
    return used


def _constraints(tables: dict[str, nn.Parameter], cluster: Cluster, world_size: int) -> dict[str, ParameterConstraints]:
    stray = set(cluster.constraints) - set(tables) - {"item", "profile"}
    if stray:
        known = ", ".join(tables)
        raise UserError(f"cluster {cluster.name!r}: constraints.{min(stray)}: no such table; known: {known}")
    constraints = {}
    for name, weight in tables.items():
        rows, columns = weight.shape
        own = cluster.constraint(name)
        # Row-wise blocks hold ceil(rows / W) rows, so the last may be empty; FBGEMM's CPU kernel takes a rank
        # whose blocks are all empty for a GPU and fails (1.8.0).
        starved = (world_size - 1) * math.ceil(rows / world_size) >= rows > 0 and world_size > 1
        kinds = [kind for kind in own.sharding_types if not (kind == "row_wise" and starved)]
        cached = "fused_uvm_caching" in own.compute_kernels
        constraints[name] = ParameterConstraints(
            sharding_types=kinds or ["table_wise"],
            compute_kernels=list(own.compute_kernels),
            min_partition=max(4, math.ceil(columns / world_size)),
            pooling_factors=[own.ids_per_step],
            cache_params=CacheParams(load_factor=own.cache_load_factor) if cached else None,
        )
    return constraints


def _planner(
    tables: dict[str, nn.Parameter],
    cluster: Cluster,
    world_size: int,
    optimizer: str,
    *,
    leanest: bool = False,
) -> tuple[EmbeddingShardingPlanner, list[ShardingOption]]:
    """A planner, and the list its winning options appear in; ``leanest`` lifts limits and saves memory."""
    usable = {m: int(UNLIMITED_GB * GIB) if leanest and b else b for m, b in cluster.usable().items()}
    topology = TopologyFactory.create_topology(
        TrainerConfig(world_size=world_size, local_world_size=min(cluster.ranks_per_node, world_size)),
        HardwareConfig(
            hbm_cap_bytes=usable["hbm"],
            ddr_cap_bytes=usable["host"],
            ssd_cap_bytes=0,
            intra_host_bw=cluster.intra_node_gb_per_s * 1e6,  # bytes per millisecond
            inter_host_bw=cluster.inter_node_gb_per_s * 1e6,
        ),
        KernelConfig(compute_device=cluster.compute_device, use_hardware_based_bandwidth=True),
    )
    constraints = _constraints(tables, cluster, world_size)
    winners: list[ShardingOption] = []

    def keep(options: list[ShardingOption]) -> list[ShardingOption]:
        winners.extend(options)
        return options

    estimators = [
        EmbeddingPerfEstimatorFactory.create(DEFAULT_PERF_ESTIMATOR, topology=topology, constraints=constraints),
        _StorageEstimator(topology, constraints, optimizer),
    ]
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=1,  # a step is one "sample" with ids_per_step look-ups: inputs have stride 1
        enumerator=EmbeddingEnumerator(topology, batch_size=1, constraints=constraints, estimator=estimators),
        storage_reservation=FixedPercentageStorageReservation(0.0),  # Cluster.usable already took it off
        performance_model=_FullestRank(cluster.usable()) if leanest else None,
        stats=NoopEmbeddingStats(),
        constraints=constraints,
        callbacks=[keep],
    )
    return planner, winners


def _plan(module: nn.Module, cluster: Cluster, world_size: int, sharders: Sequence[ModuleSharder[Any]]) -> ShardingPlan:
    kinds = {sharder.module_type: sharder for sharder in sharders}
    tables: dict[str, nn.Parameter] = {}
    for child in module.modules():
        if type(child) in kinds:
            tables |= kinds[type(child)].shardable_parameters(child)
    kind = next((s.fused_params["optimizer"] for s in sharders if "optimizer" in (s.fused_params or {})), None)
    optimizer = getattr(kind, "value", "exact_sgd")
    if optimizer not in OPTIMIZER_STATE:
        raise UserError(f"table optimizer {optimizer}: unknown; known: {', '.join(OPTIMIZER_STATE)}")
    try:
        return _planner(tables, cluster, world_size, optimizer)[0].plan(module, list(sharders))
    except PlannerError as error:
        reason = error
    planner, winners = _planner(tables, cluster, world_size, optimizer, leanest=True)
    plan: ShardingPlan = planner.plan(module, list(sharders))
    used, usable = _used(winners), cluster.usable()
    short, memory, rank = max((used[m][r] - usable[m], m, r) for m in used for r in used[m])
    if short <= 0:  # the planner's search missed a plan that does fit
        return plan
    largest, table = max((max(_used([option])[memory].values()), option.name) for option in winners)
    fault = DoesNotFitError(
        f"the tables do not fit on {world_size} rank(s) of {cluster.name!r}: rank {rank} of the leanest plan "
        f"needs {used[memory][rank]:,} bytes of {memory} memory and may use {usable[memory]:,}: "
        f"{short:,} bytes too many (largest: table {table!r}, {largest:,} bytes on one rank)"
    )
    fault.plan, fault.memory, fault.short_bytes = plan, memory, short
    raise fault from reason


def make_plan(
    module: nn.Module,
    cluster: Cluster,
    world_size: int,
    sharders: Sequence[ModuleSharder[Any]],
    pg: dist.ProcessGroup | None = None,
) -> ShardingPlan:
    """Return TorchRec's plan for every table in ``module`` over ``world_size`` ranks of ``cluster``.

    Optimizer state counts, by the first sharder's ``fused_params["optimizer"]``. With ``pg`` rank 0 plans and
    all ranks return its plan. Raises DoesNotFitError (a UserError) with the bytes that are missing, and
    UserError for a constraint on an unknown table; with ``pg`` every rank raises alike, where TorchRec's own
    ``collective_plan`` would leave the others waiting.
    """
    if world_size < 1:
        raise UserError(f"world size must be at least 1, got {world_size}")

    def attempt() -> ShardingPlan | UserError:
        try:
            return _plan(module, cluster, world_size, sharders)
        except UserError as error:
            return error

    result = attempt() if pg is None else invoke_on_rank_and_broadcast_result(pg, 0, attempt)
    if isinstance(result, UserError):
        raise result
    return result
