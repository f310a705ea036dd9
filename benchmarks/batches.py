"""Batches to train on: of synthetic users, and of prepared data; both made by the real Collator."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppr_dist import runs
from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.loader import Loader
from ppr_dist.data.stream.users import Users
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.step_loss import make_objectives
from ppr_dist.training import make_loader
from ppr_dist.training_run import Run


def random_batch(config: Config, items: int, step: int, *, shortest: int, bucket_tokens: int | None = None) -> Batch:
    """One rank's batch of ``config.train.global_batch_size`` users, clicks drawn uniformly from the whole catalogue.

    Histories are ``shortest`` to ``config.model.max_length`` long, uniformly; another ``step``, other users.
    """
    users, rng = config.train.global_batch_size, np.random.default_rng(step)
    clicks = rng.integers(shortest, config.model.max_length, users, endpoint=True) + 1
    collator = Collator(
        objectives=make_objectives(config, None, Catalogue(items=items, attributes={})),
        items=items,
        probability=np.broadcast_to(np.float32(1 / items), items),
        max_length=config.model.max_length,
        hold_out=0,
        first_target=1,
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


def pretraining(data: Path, config: Config, context: DistributedContext) -> tuple[Run, Loader]:
    """What ``pretrain`` would do with prepared data: the run, whose folder nobody writes to, and its loader."""
    manifest = load_manifest(data)
    run = Run(
        folder=data,
        data=data,
        resume=False,
        manifest=manifest,
        info=runs.describe("pretrain", None, data, manifest),
        split="pretrain",
        config=config,
        context=context,
    )
    return run, make_loader(run, make_objectives(config, None, run.info.catalogue_for(config)))
