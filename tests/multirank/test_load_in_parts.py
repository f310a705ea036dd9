"""A large tensor of a checkpoint is read a part at a time, to the same values."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from ppr_dist.checkpoint import reader
from ppr_dist.parallel.distributed import DistributedContext
from tests.ranks import run_ranks

MIB = 2**20


def grown(context: DistributedContext, folder: str) -> float:
    """MiB that the peak of this process grows by in loading 160 MiB into a tensor that is there; its imports count."""
    del context
    table = torch.randn(160 * MIB // 256, 64)
    dcp.save({"tables": {"item": table}, "step": 5}, checkpoint_id=folder)
    state: dict[str, Any] = {"tables": {"item": torch.ones_like(table)}, "step": 0}
    # The peak so far has what saving took: hold that much again, so that what loading takes shows.
    held = torch.ones(max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - _resident()) // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reader.load(state, Path(folder))
    assert len(held) >= 0
    assert torch.equal(state["tables"]["item"], table)
    assert state["step"] == 5
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_loading_holds_no_second_copy(tmp_path: Path) -> None:
    (mebibytes,) = run_ranks(grown, 1, str(tmp_path / "c"))
    assert mebibytes < 120, f"{mebibytes:.0f} MiB"


def shards(context: DistributedContext, folder: str) -> None:
    ranks = init_device_mesh("cpu", (context.world_size,))
    table = torch.arange(71 * 10, dtype=torch.float16).view(71, 10)
    dcp.save({"t": distribute_tensor(table, ranks, [Shard(0)])}, checkpoint_id=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "PART", 64)  # three rows
        for placement in (Shard(0), Shard(1), Replicate()):
            found = distribute_tensor(torch.zeros_like(table), ranks, [placement])
            reader.load({"t": found}, Path(folder))
            assert torch.equal(found.full_tensor(), table)


def test_any_part_of_any_shard(tmp_path: Path) -> None:
    run_ranks(shards, 2, str(tmp_path / "c"))
