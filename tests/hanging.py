"""A command of two ranks of which rank 1 hangs after some steps, as its argument says, while rank 0 waits for it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ppr_dist.guards import hang
from ppr_dist.parallel.distributed import distributed_context

SECONDS = 2.0
"""The limit."""


def stop(kind: str) -> None:
    if kind == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "asleep":
        time.sleep(1000)
    if kind == "holding the interpreter":
        sys.setswitchinterval(1000)  # no other thread of Python comes to run
        while True:
            pass


def main(argv: list[str] | None = None) -> None:
    kind, folder = argv or []
    with distributed_context() as context, hang.time_limit(SECONDS / 60, Path(folder), context.rank):
        for step in range(50):
            time.sleep(0.05)  # in all longer than the limit
            dist.all_reduce(torch.ones(1))
            hang.alive()
            if step == 10 and context.rank == 1:
                stop(kind)
        print("done")
