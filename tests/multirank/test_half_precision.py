"""An item table of float16 weights: rounded once, trained alike on any number of ranks, saved and loaded as it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.table_memory import held_bytes, planned_bytes
from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.loading import load_tables
from ppr_dist.checkpoint.position import Position, chosen
from ppr_dist.config import Config, Tables
from ppr_dist.data.stream.user_stream import StreamState
from ppr_dist.parallel.apply import make_embeddings
from ppr_dist.parallel.cluster import load_cluster
from ppr_dist.parallel.distributed import DistributedContext
from tests.multirank.models import USERS, build, small_config, steps, whole_tables
from tests.multirank.test_plan_bytes import DIM, ITEMS, SIZES, VALUES
from tests.multirank.test_sharding_kinds import KINDS, cluster_file
from tests.ranks import run_ranks

ULP = 2.0**-10  # distance of neighbouring float16 numbers, over the number


def half(config: Config) -> Config:
    return dataclasses.replace(config, tables=dataclasses.replace(config.tables, precision="float16"))


def initial(context: DistributedContext, files: list[Path]) -> list[dict[str, Any]]:
    found = []
    for file in files:
        tables = make_embeddings(SIZES, Config(tables=Tables(cluster=file, precision="float16")), context)
        held = held_bytes(tables)  # first: FBGEMM keeps the ids of the last look-up
        types = {table: weight.dtype for table, weight, _, _ in tables.local_shards()}
        vectors = tables.look_up_items(torch.arange(context.rank, ITEMS))["id"].detach()
        full = make_embeddings(SIZES, Config(tables=Tables(cluster=file)), context)
        want = full.look_up_items(torch.arange(context.rank, ITEMS))["id"].detach()
        found.append({"types": types, "got": vectors.numpy(), "want": want.numpy(), "held": held})
        for state in tables.optimizer_state_dict().values():
            for moment in state.values():
                assert {shard.tensor.dtype for shard in moment.local_shards()} <= {torch.float32}
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_weights_are_rounded_and_vectors_are_float32(world_size: int, tmp_path: Path) -> None:
    files = [cluster_file(tmp_path, kind, "table_wise") for kind in KINDS]
    ranks = run_ranks(initial, world_size, files)
    for case, file in enumerate(files):
        planned = planned_bytes(load_cluster(file), world_size, ITEMS, DIM, VALUES, half=True)
        assert [rank[case]["held"] for rank in ranks] == pytest.approx(planned, rel=0.1), file.stem
        types = {table: kind for rank in ranks for table, kind in rank[case]["types"].items()}
        assert types.pop("item") == torch.float16
        assert set(types.values()) == {torch.float32}
        for rank in ranks:
            assert rank[case]["got"].dtype == np.float32
            np.testing.assert_array_equal(rank[case]["got"], rank[case]["want"].astype(np.float16))


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
def test_two_ranks_train_what_one_trains(optimizer: str) -> None:
    config = half(small_config(optimizer=optimizer))
    (one,), both = (run_ranks(steps, world_size, config, "ppr-full", 4) for world_size in (1, 2))
    two, losses = both[0], np.sum([rank["losses"] for rank in both], axis=0)
    start = run_ranks(steps, 1, config, "ppr-full", 0)[0]["tables"]["item"]
    item = one["tables"]["item"]
    np.testing.assert_array_equal(item, item.astype(np.float16))
    assert np.abs(item - start).max() > 0.02
    np.testing.assert_allclose(losses, one["losses"], rtol=1e-3)
    # A gradient that differs by float32's rounding may round a weight to the neighbour, and so on from there.
    np.testing.assert_allclose(two["tables"]["item"], item, rtol=2 * ULP, atol=2e-4)
    assert (two["tables"]["item"] == item).mean() > 0.9
    full = run_ranks(steps, 1, small_config(optimizer=optimizer), "ppr-full", 4)[0]["tables"]["item"]
    assert 0 < np.abs(item - full).max() < 0.02


def saved(context: DistributedContext, run: Path, config: Config) -> np.ndarray:
    parallel = build(context, config).parallel
    stream = StreamState(fingerprint="f", split="pretrain", seed=0, batch=USERS)
    Checkpointer(run, keep=1).save(parallel, Position(step=1, stream=stream, world_size=context.world_size))
    return whole_tables(parallel)["item"]


def loaded(context: DistributedContext, run: Path, config: Config) -> np.ndarray:
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=1))
    parallel = build(context, other).parallel
    load_tables(parallel.embeddings, chosen(run).path, with_optimizer=True)
    return whole_tables(parallel)["item"]


@pytest.mark.parametrize("to_half", [True, False])
def test_a_run_may_start_from_one_of_the_other_precision(tmp_path: Path, to_half: bool) -> None:
    full = small_config()
    one, other = (full, half(full)) if to_half else (half(full), full)
    before = run_ranks(saved, 2, tmp_path, one)[0]
    for world_size in (1, 2):
        after = run_ranks(loaded, world_size, tmp_path, other)[0]
        np.testing.assert_array_equal(after, before.astype(np.float16) if to_half else before)
