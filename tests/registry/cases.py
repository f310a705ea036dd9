"""Every part once, the others as they are by default: what the tests of this folder go over.

A new part is found by its name in its dict, and tested without a change here.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from ppr_dist.config import Config, Model, Profiles, Tables, Train
from ppr_dist.data.stream.users import Users
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.model.item_encoders import ITEM_ENCODERS
from ppr_dist.objectives import OBJECTIVES
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import PrefetchedBatch, fetch
from ppr_dist.tuning import TUNING_METHODS
from tests.multirank import models
from tests.multirank.models import Built
from tests.settings import parts
from tests.shards import random_users, rank_part, select

Once = Callable[[str, Callable[[], Any]], Any]
"""The fixture ``once``."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained."""

    backbone: str = Model().backbone
    objectives: tuple[str, ...] = tuple(Train().objectives)
    method: str | None = None
    train_items: bool | None = None
    item_encoders: tuple[str, ...] = ("id",)
    dense_up_to: int = 50_000
    """Labels of a space that is no table."""

    def config(self, *, zero_stage: int = 0) -> Config:
        """A model of width 16, with dropout."""
        return Config(
            model=Model(
                backbone=self.backbone,
                item_encoders=list(self.item_encoders),
                combine_items="concat",
                dim=16,
                max_length=10,
                dropout=0.3,
            ),
            profiles=Profiles(hidden=8, attribute_dim=16),
            tables=Tables(lr=0.1, init_std=0.3, train_items=self.train_items),
            train=Train(
                objectives=list(self.objectives),
                global_batch_size=models.USERS,
                lr=1e-2,
                max_grad_norm=0.5,
                zero_stage=zero_stage,  # type: ignore[arg-type]
            ),
            parts=parts(labels={"dense_up_to": self.dense_up_to, "uniform_negatives": 40}),
        )


CASES = {
    **{f"backbone {name}": Case(backbone=name) for name in BACKBONES},
    **{f"item encoder {name}": Case(item_encoders=(name,)) for name in ITEM_ENCODERS if name != "id"},
    "all item encoders": Case(item_encoders=tuple(ITEM_ENCODERS)),
    **{f"objective {name}": Case(objectives=(name,)) for name in OBJECTIVES},
    "labels in tables": Case(objectives=("labels", "softmax"), dense_up_to=2),
    **{f"method {name}": Case(method=name) for name in TUNING_METHODS},
}


def _users() -> Users:
    """Some without clicks and some with one, all with times; some profiles are unknown, and some have no labels."""
    rng = np.random.default_rng(7)
    users = random_users(models.USERS, models.ITEMS, longest=11, labels=models.LABELS)
    gaps = (10 ** rng.uniform(0, 6, len(users.items))).astype(np.int64)
    return dataclasses.replace(users, times=10**9 + np.cumsum(gaps))


USERS = _users()


def build(context: DistributedContext, case: Case, *, stir: float = 0.05, **settings: Any) -> Built:
    """The case's model on these ranks; nothing in it is 0."""
    return models.build(context, case.config(**settings), case.method, stir=stir)


@contextmanager
def partitioning() -> Iterator[None]:
    """ZeRO 3 holds no parameter back as too small to be partitioned."""
    import deepspeed

    initialize = deepspeed.initialize

    def initialized(*, config: dict[str, Any], **given: Any) -> Any:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return initialize(config=config, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deepspeed, "initialize", initialized)
        yield


def fetched(context: DistributedContext, built: Built, steps: range) -> Iterator[PrefetchedBatch]:
    """A batch of each step.

    In turn of all users; of one user, on the last rank; of users without targets or without a history.
    """
    few = np.flatnonzero(USERS.lengths < 2).tolist()
    for step in steps:
        users = [USERS, select(USERS, [0]), select(USERS, few)][step % 3]
        mine = rank_part(users, context.rank, context.world_size)
        batch = built.collator(mine, epoch=0, step=step, global_users=len(users))
        yield fetch(batch, built.parallel.embeddings, built.objectives)


def of_each(context: DistributedContext, names: list[str], function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """``function(context, case, *args)`` of each case by its name, or the traceback of what it raised.

    All cases in one group of processes, whose start takes seconds.
    """
    found: dict[str, Any] = {}
    for name in names:
        case = CASES[name]
        try:
            found[name] = function(context, case, *args)
        except Exception:
            found[name] = traceback.format_exc()
    return found


def result(ranks: list[dict[str, Any]], name: str) -> list[Any]:
    """What :func:`of_each` found on each rank for one case; fails with the traceback, if that is what it was."""
    found = [rank[name] for rank in ranks]
    for each in found:
        assert not isinstance(each, str), each
    return found
