"""What a checkpoint takes is known before there is one, and whether there is room."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Position
from ppr_dist.checkpoint.reader import names, read_tensor
from ppr_dist.config import Train
from ppr_dist.data.stream.user_stream import StreamState
from ppr_dist.errors import UserError
from ppr_dist.guards import disk
from ppr_dist.guards.disk import checkpoint_bytes
from ppr_dist.parallel.distributed import DistributedContext
from tests.multirank.models import build, small_config
from tests.ranks import run_ranks

STREAM = StreamState(fingerprint="f", split="pretrain", seed=0, batch=8)


def told(context: DistributedContext, run: Path, zero_stage: int) -> int:
    parallel = build(context, small_config(zero_stage=zero_stage, optimizer="adagrad"), "ppr-full").parallel
    Checkpointer(run, keep=1).save(parallel, Position(step=1, stream=STREAM, world_size=context.world_size), last=True)
    return checkpoint_bytes(parallel)


@pytest.mark.parametrize(("world_size", "zero_stage"), [(1, 0), (2, 3)])
def test_a_checkpoints_bytes_are_those_of_what_it_holds(world_size: int, zero_stage: int, tmp_path: Path) -> None:
    estimates = set(run_ranks(told, world_size, tmp_path, zero_stage))
    (estimate,) = estimates
    folder = tmp_path / "checkpoints" / "step-00000001"
    counts = ("dense.step", "tables_steps.")  # a few bytes that are not estimated
    held = [name for name in names(folder) if name.startswith(("tables", "dense")) and not name.startswith(counts)]
    assert len(held) > 10
    assert estimate == sum(read_tensor(folder, name).nbytes for name in held)


USAGE = namedtuple("USAGE", "free")


@pytest.mark.parametrize(
    ("free", "kept", "settings", "said"),
    [
        (99e6, 0, {}, "error 99 MB are free, and a checkpoint takes 100 MB: make room, or choose another --run-dir"),
        (99e6, 0, {"on_failed_checkpoint": "continue"}, "warning 99 MB are free, and a checkpoint takes 100 MB"),
        (299e6, 0, {}, "warning 299 MB are free, and the checkpoints that are kept will take 300 MB more"),
        (300e6, 0, {}, ""),
        (
            300e6,
            0,
            {"eval_every_epochs": 1},
            "warning 300 MB are free, and the checkpoints that are kept will take 400",
        ),
        (299e6, 1, {}, ""),
        (100e6, 3, {}, ""),
    ],
)
def test_room_for_one_is_needed_and_for_all_is_wished(
    free: float, kept: int, settings: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(disk, "warn", lambda text: heard.append(f"warning {text}"))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: USAGE(free))
    monkeypatch.setattr(disk, "checkpoints", lambda run: [run] * kept)
    try:
        disk._check(tmp_path / "run", int(100e6), Train(**settings))
    except UserError as error:
        heard.append(f"error {error}")
    assert [text.replace(f"{tmp_path}: ", "")[: len(said)] for text in heard] == ([said] if said else [])
