"""Batches of synthetic users, made by the real Collator."""

from __future__ import annotations

import numpy as np

from ppr_dist.batch import Batch
from ppr_dist.config import Config
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.users import Users


def random_batch(config: Config, items: int, step: int, *, shortest: int, bucket_tokens: int | None = None) -> Batch:
    """One rank's batch of ``config.train.global_batch_size`` users, clicks drawn uniformly from the whole catalogue.

    Histories are ``shortest`` to ``config.model.max_length`` long, uniformly; another ``step``, other users.
    """
    users, rng = config.train.global_batch_size, np.random.default_rng(step)
    clicks = rng.integers(shortest, config.model.max_length, users, endpoint=True) + 1
    collator = Collator(
        loss=config.loss,
        items=items,
        probability=np.broadcast_to(np.float32(1 / items), items),
        max_length=config.model.max_length,
        hold_out=0,
        first_target=1,
        views=False,
        seed=0,
        rank=0,
        world_size=1,
        bucket_tokens=bucket_tokens,
    )
    drawn = Users(
        index=np.arange(users),
        items=rng.integers(0, items, clicks.sum()),
        offsets=np.concatenate([[0], np.cumsum(clicks)]),
        attributes=np.zeros((0, users), np.int64),
    )
    return collator(drawn, epoch=0, step=step, global_users=users)
