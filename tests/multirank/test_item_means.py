"""Attribute embeddings that begin as means of the vectors of clicked items, against a loop over users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppr_dist.build_model import untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model, Tables
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.parallel.apply import parallelize
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.item_means import begin_as_item_means
from ppr_dist.parallel.tables import TableSizes
from tests.multirank.test_sharding_kinds import KINDS, cluster_file, whole
from tests.ranks import run_ranks
from tests.shards import ATTRIBUTES, random_users, write_data

ITEMS, HOLD_OUT, DIM = 61, 1, 16
USERS = random_users(37, ITEMS)
NAMES = list(ATTRIBUTES)
# The first of the attributes is one that the model may not see.
SIZES = TableSizes(
    items=ITEMS,
    dim=DIM,
    attributes={name: ATTRIBUTES[name] + 1 for name in NAMES[1:]},  # the last value is nobody's
    columns=tuple(range(1, len(NAMES))),
    attribute_dim=DIM,
    uses=("prompt", "profile_encoder"),
)


def begun(context: DistributedContext, data: Path, files: list[Path]) -> list[Any]:
    found = []
    for file in files:
        config = Config(model=Model(dim=DIM), tables=Tables(optimizer="sgd", cluster=file))
        model = untuned_model(config, Catalogue(items=ITEMS, attributes={}))
        parallel = parallelize(SIZES, model, config, context)
        tables = parallel.embeddings
        before = whole(tables)
        stream = UserStream(
            data, load_manifest(data), "tune-train", batch=8, rank=context.rank, world_size=context.world_size, seed=1
        )
        begin_as_item_means(parallel, "prompt", stream, HOLD_OUT)
        found.append((before, whole(tables)))
    return found


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_value_begins_as_the_mean_of_what_its_users_clicked(world_size: int, tmp_path: Path) -> None:
    write_data(tmp_path / "data", {"tune-train": USERS}, items=ITEMS, per_shard=16)
    files = [cluster_file(tmp_path, kind, kind) for kind in KINDS]
    ranks = run_ranks(begun, world_size, tmp_path / "data", files)
    for case, kind in enumerate(KINDS):
        before, _ = ranks[0][case]
        want = {name: table.copy() for name, table in before.items()}
        for column, name in enumerate(NAMES[1:], start=1):
            clicked: dict[int, list[int]] = {}
            for user, value in enumerate(USERS.attributes[column]):
                clicks = USERS.items[USERS.offsets[user] : USERS.offsets[user + 1]]
                clicked.setdefault(int(value), []).extend(clicks[: max(len(clicks) - HOLD_OUT, 0)].tolist())
            assert len(clicked) > 2
            for value, items in clicked.items():
                if items:
                    want[f"prompt:{name}"][value] = before["item"][items].astype(np.float64).mean(0)
            assert np.abs(want[f"prompt:{name}"] - before[f"prompt:{name}"]).max() > 0.01
        for rank in ranks:
            for name, table in want.items():
                np.testing.assert_allclose(rank[case][1][name], table, rtol=1e-6, atol=1e-9, err_msg=f"{kind} {name}")
