"""The bytes per rank that ``python -m ppr_dist.plan`` says, against the tensors each rank then holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.table_memory import held_bytes, planned_bytes
from ppr_dist.config import Config, Tables
from ppr_dist.parallel.apply import make_embeddings
from ppr_dist.parallel.cluster import load_cluster
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.tables import TableSizes
from tests.multirank.test_sharding_kinds import KINDS, cluster_file
from tests.ranks import run_ranks

ITEMS, DIM, VALUES = 3001, 32, 701
SIZES = TableSizes(
    items=ITEMS,
    dim=DIM,
    attributes={"profile": VALUES},
    columns=(0,),
    attribute_dim=DIM,
    uses=("prompt", "profile_encoder"),
)


def held(context: DistributedContext, files: list[Path]) -> list[int]:
    return [held_bytes(make_embeddings(SIZES, Config(tables=Tables(cluster=file)), context)) for file in files]


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_rank_holds_what_the_plan_says(world_size: int, tmp_path: Path) -> None:
    files = [cluster_file(tmp_path, kind, "table_wise") for kind in KINDS]
    ranks = run_ranks(held, world_size, files)
    for case, file in enumerate(files):
        planned = planned_bytes(load_cluster(file), world_size, ITEMS, DIM, VALUES)
        got = [rank[case] for rank in ranks]
        assert got == pytest.approx(planned, rel=0.1), file.stem
        # Weights alone are within 10 % too; the state is there, once per row and shard.
        assert sum(got) >= 4 * (DIM + 1) * (ITEMS + 2 * VALUES), file.stem
    assert world_size == 1 or got[0] > 2 * got[1]  # the last kind: the item table lies whole on one rank
