"""Which batch is tried before training, and what is said where memory does not suffice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ppr_dist.data.stream.loader import Loader
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.errors import UserError
from ppr_dist.guards.dry_step import dry_step, largest_batch
from ppr_dist.objectives.base import Step
from ppr_dist.parallel.distributed import DistributedContext
from tests.multirank.models import ITEMS, build, small_config
from tests.ranks import run_ranks
from tests.shards import random_users, write_data


def tried(context: DistributedContext, data: Path) -> tuple[int, int, list[int], str]:
    """Users, most users of any rank, clicks of each, and what is said once memory does not suffice."""
    users = random_users(50, ITEMS, longest=14)
    manifest = write_data(data / f"{context.rank}", {"pretrain": users}, items=ITEMS, per_shard=16)
    built = build(context, small_config("bpr"))
    stream = UserStream(
        data / f"{context.rank}", manifest, "pretrain", batch=45, rank=context.rank, world_size=context.world_size
    )
    batch = largest_batch(Loader(stream, built.collator, workers=0))
    assert torch.equal(batch.users.bincount(minlength=50).nonzero().flatten(), batch.users.unique())
    dry_step(built.parallel, batch, built.objectives, context, "float32")

    def too_much(step: Step) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore")

    built.objectives["bpr"].sum = too_much  # type: ignore[method-assign]
    with pytest.raises(UserError) as raised:
        dry_step(built.parallel, batch, built.objectives, context, "float32")
    assert raised.value.rank == context.rank  # type: ignore[attr-defined]
    return len(batch.users), batch.max_users_per_rank, batch.history.lengths.tolist(), str(raised.value)


def test_the_largest_batch(tmp_path: Path) -> None:
    users = random_users(50, ITEMS, longest=14)
    # Of the shard with most clicks all 16, over again up to half of 45, rounded up; of each 10 inputs and a target.
    shards = [users.lengths[first : first + 16] for first in range(0, 50, 16)]
    longest = max(shards, key=np.sum)
    inputs = np.sort(np.resize(np.minimum(np.sort(longest)[::-1], 11), 23))[::-1] - 1
    for count, most, lengths, said in run_ranks(tried, 2, tmp_path):
        assert (count, most) == (23, 23)
        assert lengths == np.maximum(inputs, 0).tolist()
        assert said.startswith(
            "out of memory in the dry step of 23 users per rank of 11 clicks "
            "(CUDA out of memory. Tried to allocate 20.00 GiB.); lower train.global_batch_size"
        )
