"""A command of two ranks of which rank 1 fails, as its argument says, while rank 0 waits in a collective."""

from __future__ import annotations

import errno
import time
from typing import Any

import torch
import torch.distributed as dist

from ppr_dist.errors import UserError
from ppr_dist.parallel.distributed import distributed_context


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/runs/shop/metrics.jsonl")


def fail(kind: str) -> Any:
    if kind == "user":
        error = UserError("00003.tar: member 7: not valid")
        error.rank = 1  # type: ignore[attr-defined]
        raise error
    if kind == "disk":
        full_disk()
    if kind == "memory":
        return torch.empty(10**15)
    if kind == "checkpoint":
        raise dist.checkpoint.api.CheckpointException("save", {1: wrapped(full_disk)})
    return {}["momentum"]


def wrapped(function: Any) -> Any:
    """The exception of ``function`` as torch's checkpoints pack it."""
    try:
        function()
    except Exception as error:
        return dist.checkpoint.api._wrap_exception(error)


def never_done(group: object = None) -> None:
    """What NCCL's destroy_process_group is to a rank whose peers stand in another collective."""
    time.sleep(1000)


def main(argv: list[str] | None = None) -> None:
    (kind,) = argv or []
    with distributed_context() as context:
        dist.barrier()
        dist.destroy_process_group = never_done
        if context.rank == 1:
            fail(kind)
        dist.all_reduce(torch.ones(1))
