"""What is not a finite number ends training on all ranks: at which step, and by whom."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Position, checkpoints
from ppr_dist.config import Logging
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream.loader import Loader
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.errors import UserError
from ppr_dist.objectives.base import Objective, Step
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.tracking.metric_logger import MetricLogger
from ppr_dist.trainer import train
from tests.multirank.models import ITEMS, build, small_config
from tests.ranks import run_ranks
from tests.shards import clicks_of, random_users, write_data

USERS, BATCH, BAD = random_users(60, ITEMS, shortest=3, longest=9), 10, 48
# BAD is among the clicks of users of step 3, and no negative of the steps before.


def nan_row(parallel: Parallel, objective: Objective) -> None:
    """One item's vector is NaN from the start."""
    for table, weight, first, _ in parallel.embeddings.local_shards():
        if table == "item" and first <= BAD < first + len(weight):
            weight[BAD - first] = math.nan


def infinite_gradient(parallel: Parallel, objective: Objective) -> None:
    """In the third step rank 1's loss is finite, and its gradient is not: that of √x at 0."""
    plain, steps = objective.sum, iter(range(1, 99))

    def planted(step: Step) -> torch.Tensor:
        third = next(steps) == 3 and torch.distributed.get_rank() == torch.distributed.get_world_size() - 1
        return plain(step) + (step.encoded.user.sum() * 0).sqrt() if third else plain(step)

    objective.sum = planted  # type: ignore[method-assign]


def trained(
    context: DistributedContext, data: Path, run: Path, plant: Callable[[Parallel, Objective], None], stage: int
) -> str:
    config = small_config("bpr", zero_stage=stage, bpr={"uniform_negatives": 1})
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, global_batch_size=BATCH, epochs=2, checkpoint_every=1, max_grad_norm=0),
        logging=Logging(progress=False),
    )
    parallel, collator, objectives = build(context, config)
    plant(parallel, objectives["bpr"])
    stream = UserStream(
        data, load_manifest(data), "pretrain", batch=BATCH, rank=context.rank, world_size=context.world_size, seed=1
    )
    logger = MetricLogger(run, config, context, parallel, total_steps=12, first_step=0, stage="test")
    begin = Position(step=0, stream=stream.state(), world_size=context.world_size)
    loader = Loader(stream, collator, workers=0)
    try:
        train(parallel, loader, objectives, config, context, logger, Checkpointer(run, keep=9), begin)
    except UserError as error:
        return str(error)
    return "went on"


def batches(data: Path) -> list[list[int]]:
    """Users of each global batch of the first epoch."""
    stream = UserStream(data, load_manifest(data), "pretrain", batch=BATCH, rank=0, world_size=1, seed=1)
    return [users.index.tolist() for _, _, users in stream.batches(0, range(stream.steps))]


def rarely(world_size: int, stage: int) -> Any:
    return pytest.param(world_size, stage, marks=pytest.mark.exhaustive)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_data(folder, {"pretrain": USERS}, items=ITEMS, per_shard=16)
    ids = pa.table({"user_index": USERS.index, "user_id": [f"u{index}" for index in USERS.index]})
    pq.write_table(ids, folder / "users.parquet")
    (tmp_path / "run").mkdir()
    return folder


@pytest.mark.parametrize(("world_size", "stage"), [rarely(1, 0), (2, 0), rarely(2, 2)])
def test_the_users_of_a_vector_that_is_nan_are_named(world_size: int, stage: int, data: Path) -> None:
    run = data.with_name("run")
    # Whose vector knows of the item: it is among the clicks before the last, which is only predicted.
    knows = {int(USERS.index[row]) for row in range(len(USERS)) if BAD in clicks_of(USERS, row)[:-1]}
    first, named = next((s, knows & set(batch)) for s, batch in enumerate(batches(data), 1) if knows & set(batch))
    said = run_ranks(trained, world_size, data, run, nan_row, stage)
    assert len(set(said)) == 1
    assert said[0].startswith(f"step {first}: loss nan, gradient norm {'inf' if stage else 'nan'} (rank ")
    assert f"of users {', '.join(f'u{user}' for user in sorted(named))}: {run}/not_finite.json" in said[0]
    ranks = json.loads((run / "not_finite.json").read_text())
    assert sorted(user for rank in ranks for user in rank["users"]) == sorted(f"u{user}" for user in named)
    assert [int(path.name[-8:]) for path in checkpoints(run)] == list(range(1, first))


@pytest.mark.parametrize(("world_size", "stage"), [rarely(1, 0), rarely(2, 0), (2, 3)])
def test_a_gradient_that_is_nan_under_a_finite_loss(world_size: int, stage: int, data: Path) -> None:
    run = data.with_name("run")
    said = run_ranks(trained, world_size, data, run, infinite_gradient, stage)
    assert len(set(said)) == 1
    assert said[0].startswith("step 3: loss 0.") or said[0].startswith("step 3: loss 1.")
    assert f"gradient norm {'inf' if stage else 'nan'}" in said[0]
    named = sorted(user for rank in json.loads((run / "not_finite.json").read_text()) for user in rank["users"])
    assert named == sorted(f"u{user}" for user in batches(data)[2])
    assert [int(path.name[-8:]) for path in checkpoints(run)] == [1, 2]
