"""When the loop ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppr_dist.batch import Batch
from ppr_dist.checkpoint import Checkpointer, Position, checkpoints
from ppr_dist.data.loader import Loader
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream import UserStream
from ppr_dist.observe import Observer
from ppr_dist.parallel.mesh import Mesh
from ppr_dist.trainer import train
from tests.multirank.models import ITEMS, build, small_config, with_loss
from tests.ranks import run_ranks
from tests.shards import random_users, write_data

OPENED: list[int] = []


class Noted(Loader):
    """Notes the epochs that are opened."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[int, Batch]]:
        OPENED.append(epoch)
        return super().epoch(epoch, first_step)


def minutes_are_over(mesh: Mesh, data: Path, run: Path, metrics: list[float]) -> tuple[int, list[int]]:
    """Train 30 epochs of 5 steps, by time or by patience; return the last step and the epochs that were opened."""
    config = small_config(with_loss("softmax"))
    limits = {"max_minutes": 1e-9} if not metrics else {"eval_every_epochs": 1, "patience": 2}
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, batch=8, epochs=30, log_every=3, **limits),  # type: ignore[arg-type]
        observe=dataclasses.replace(config.observe, progress=False),
    )
    parallel, collator = build(mesh, config, tuning=True)
    stream = UserStream(
        data, load_manifest(data), "tune-train", batch=8, rank=mesh.rank, world_size=mesh.world_size, seed=1
    )
    assert stream.steps == 5
    observer = Observer(run, config, mesh, total_steps=150, first_step=0, job="test")
    begin = Position(step=0, stream=stream.state(), world_size=mesh.world_size)
    left = iter(metrics)
    end = train(
        parallel,
        Noted(stream, collator, workers=0),
        config,
        mesh,
        observer,
        Checkpointer(run, keep=1),
        begin,
        (lambda: {"ndcg@10": next(left)}) if metrics else None,
    )
    return end.step, OPENED


@pytest.mark.parametrize("metrics", [[], [0.1, 0.3, 0.3, 0.2]])
def test_an_end_opens_no_epoch_that_is_left(metrics: list[float], tmp_path: Path) -> None:
    write_data(tmp_path / "data", {"tune-train": random_users(40, ITEMS, shortest=2)}, items=ITEMS, per_shard=16)
    (tmp_path / "run").mkdir()
    found = run_ranks(minutes_are_over, 2, tmp_path / "data", tmp_path / "run", metrics)
    want = (20, [0, 1, 2, 3]) if metrics else (3, [0])
    assert found == [want, want]
    kept = ["step-00000010", "step-00000020"] if metrics else ["step-00000003"]
    assert [p.name for p in checkpoints(tmp_path / "run")] == kept
