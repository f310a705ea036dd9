"""Parts of a step: what is wrapped is taken off again, and the time of a part is that part's."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from ppr_dist import trainer
from ppr_dist.parallel import collectives, prefetch
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.embeddings import ShardedEmbeddings
from ppr_dist.tracking.part_names import FORWARD, LOSS, PARTS, REST, TABLES
from ppr_dist.tracking.step_parts import StepParts
from tests.multirank.models import USERS, build, part, small_config, users
from tests.ranks import run_ranks


def wrapped(engine: Any) -> list[Any]:
    owners = (prefetch._Prefetch, ShardedEmbeddings, trainer, collectives, collectives._Way)
    return [vars(owner).copy() for owner in owners] + [{k for k, v in vars(engine).items() if callable(v)}]


def sampled(context: DistributedContext, method: str) -> tuple[dict[str, float], float, list[float]]:
    config = small_config()
    parallel, collator, objectives = build(context, config, method)
    batch = collator(part(users(), context), epoch=0, step=0, global_users=USERS)
    parts, before = StepParts(parallel), wrapped(parallel.engine)
    plain = trainer.step_loss

    def slow(*arguments: Any) -> Any:
        time.sleep(0.2)
        return plain(*arguments)

    losses = []

    def step() -> None:
        fetched = prefetch.fetch(batch, parallel.embeddings, objectives)
        losses.append(float(trainer.train_step(parallel, fetched, objectives).total))

    step()
    trainer.step_loss = slow
    try:
        start = time.perf_counter()
        parts.start()
        list(parts.data([0]))
        step()
        parts.stop()
        whole = time.perf_counter() - start
    finally:
        trainer.step_loss = plain
    assert wrapped(parallel.engine) == before
    taken = parts.take()
    step()
    assert set(parts.take().values()) == {0.0}
    return taken, whole, losses


@pytest.mark.parametrize(("ranks", "method"), [(1, "ppr-full"), (2, "ppr-full"), (2, "ppr-light")])
def test_parts_add_up_and_nothing_stays_wrapped(ranks: int, method: str) -> None:
    for parts, whole, losses in run_ranks(sampled, ranks, method):
        assert list(parts) == [*PARTS, REST]
        assert sum(parts.values()) == pytest.approx(whole, rel=0.05)
        assert 0.2 < parts[LOSS] < 0.2 + whole / 2
        assert min(parts.values()) >= 0
        assert parts[FORWARD] > 0
        assert parts[TABLES] > 0
        assert torch.tensor(losses).isfinite().all()
