"""Ranks talk to one another by sockets, whose number grows with W: beyond the usual limit of open files."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from ppr_dist.config import Train
from ppr_dist.parallel.dense import make_engine
from ppr_dist.parallel.distributed import DistributedContext
from tests.ranks import run_ranks

LIMIT = 32
"""What 1,024 is to some 340 ranks, this is to 4: rank 0 has 39 files open at the end, 28 of them before it starts."""


def step(context: DistributedContext) -> int:
    """Make an engine, which clones the world group, and step; return how many files are open."""
    engine = make_engine(torch.nn.Linear(4, 4), Train(), context.world_size)
    engine.backward(engine(torch.ones(2, 4)).sum())
    engine.step()
    every = torch.ones(context.world_size)
    dist.all_to_all_single(torch.empty_like(every), every)
    return len(os.listdir("/proc/self/fd"))


def test_ranks_start_where_the_soft_limit_is_lower_than_what_they_need() -> None:
    assert max(run_ranks(step, 4, open_files=LIMIT)) > LIMIT
