"""When the loop ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppr_dist.batch import Batch
from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Position, checkpoint_of, checkpoints
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream.loader import Loader
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.preemption import Preemption
from ppr_dist.tracking.metric_logger import MetricLogger
from ppr_dist.trainer import Validation, train
from tests.multirank.models import ITEMS, build, small_config
from tests.ranks import run_ranks
from tests.shards import random_users, write_data

OPENED: list[int] = []


class Told(Preemption):
    """Rank 1 alone gets a signal, as the step of that number ends; the others learn of it a step later."""

    def __init__(self, rank: int, at: int | None) -> None:
        super().__init__()
        self.left = at if rank == 1 else None

    @property
    def asked(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left <= 0


class Noted(Loader):
    """Notes the epochs that are opened."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[int, Batch]]:
        OPENED.append(epoch)
        return super().epoch(epoch, first_step)


def trained(
    context: DistributedContext,
    data: Path,
    run: Path,
    limits: dict[str, Any],
    metrics: list[float],
    told: int | None = None,
) -> tuple[Any, ...]:
    """Train 30 epochs of 5 steps at most; return the last step, the best one and the epochs that were opened."""
    config = small_config()
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, global_batch_size=8, epochs=30, log_every=3, **limits),
        logging=dataclasses.replace(config.logging, progress=False),
    )
    parallel, collator, objectives = build(context, config, "ppr-full")
    stream = UserStream(
        data, load_manifest(data), "tune-train", batch=8, rank=context.rank, world_size=context.world_size, seed=1
    )
    assert stream.steps == 5
    logger = MetricLogger(run, config, context, parallel, total_steps=150, first_step=0, stage="test")
    begin = Position(step=0, stream=stream.state(), world_size=context.world_size)
    left, preemption = iter(metrics), Told(context.rank, told)
    end = train(
        parallel,
        Noted(stream, collator, workers=0),
        objectives,
        config,
        context,
        logger,
        Checkpointer(run, keep=1),
        begin,
        Validation(lambda: {"ndcg@10": next(left)}, "ndcg@10") if metrics else None,
        preemption,
    )
    assert not list(left)
    if told is not None:
        return end.step, end.best and end.best.step, preemption.stops
    return end.step, end.best and end.best.step, OPENED


OVER = {"max_minutes": 1e-9}


@pytest.mark.parametrize(
    ("limits", "metrics", "want", "kept"),
    [
        (OVER, [], (2, None, [0]), [2]),
        (OVER | {"eval_every_epochs": 1}, [0.1], (2, 2, [0]), [2]),
        ({"eval_every_epochs": 1, "patience": 2}, [0.1, 0.3, 0.3, 0.2], (20, 10, [0, 1, 2, 3]), [10, 20]),
    ],
    ids=["minutes", "minutes, validated", "patience"],
)
def test_an_end_is_validated_and_opens_no_epoch_that_is_left(
    limits: dict[str, Any], metrics: list[float], want: tuple[Any, ...], kept: list[int], tmp_path: Path
) -> None:
    write_data(tmp_path / "data", {"tune-train": random_users(40, ITEMS, shortest=2)}, items=ITEMS, per_shard=16)
    (tmp_path / "run").mkdir()
    assert run_ranks(trained, 2, tmp_path / "data", tmp_path / "run", limits, metrics) == [want, want]
    assert checkpoints(tmp_path / "run") == [checkpoint_of(tmp_path / "run", step) for step in kept]


@pytest.mark.parametrize(
    ("limits", "metrics", "told", "want"),
    [
        ({}, [], 1, (2, None, True)),
        ({"eval_every_epochs": 1}, [0.1], 6, (7, 5, True)),
        ({"eval_every_epochs": 1}, [0.1], 4, (5, 5, True)),
        ({"eval_every_epochs": 1, "max_steps": 8}, [0.2, 0.1], 7, (8, 5, False)),
    ],
    ids=["in an epoch", "no validation", "a validation that is due", "the end"],
)
def test_a_signal_on_one_rank_stops_all_after_the_same_step(
    limits: dict[str, Any], metrics: list[float], told: int, want: tuple[Any, ...], tmp_path: Path
) -> None:
    write_data(tmp_path / "data", {"tune-train": random_users(40, ITEMS, shortest=2)}, items=ITEMS, per_shard=16)
    (tmp_path / "run").mkdir()
    assert run_ranks(trained, 2, tmp_path / "data", tmp_path / "run", limits, metrics, told) == [want, want]
    assert checkpoints(tmp_path / "run")[-1] == checkpoint_of(tmp_path / "run", want[0])
