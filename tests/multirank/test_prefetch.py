"""Training with prefetched batches against fetching each in its own step."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ppr_dist.batch import Batch
from ppr_dist.parallel import collectives
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import PrefetchedBatch, fetch, prefetch
from ppr_dist.trainer import train_step
from tests.multirank.models import USERS, Built, build, part, small_config, users, whole_tables
from tests.ranks import run_ranks

STEPS = 5


def in_step(batches: Iterable[tuple[int, Batch]], built: Built, _: DistributedContext) -> Iterator[PrefetchedBatch]:
    for _, batch in batches:
        yield fetch(batch, built.parallel.embeddings, built.objectives)


def ahead(batches: Iterable[tuple[int, Batch]], built: Built, context: DistributedContext) -> Iterator[PrefetchedBatch]:
    order: list[str] = []

    def noted() -> Iterator[tuple[int, Batch]]:
        for step, batch in batches:
            order.append(f"read {step}")
            yield step, batch

    for step, fetched in enumerate(prefetch(noted(), built.parallel.embeddings, built.objectives, context.device)):
        order.append(f"train {step}")
        yield fetched
    # The next batch's ids are on their way before this one trains.
    assert order.index("read 2") < order.index("train 1") < order.index("read 3")


def rows_too(batches: Iterable[tuple[int, Batch]], built: Built, _: DistributedContext) -> Iterator[PrefetchedBatch]:
    """What must not be done: rows looked up before the update of the step before."""
    waiting: list[PrefetchedBatch] = []
    for _, batch in batches:
        items = built.parallel.embeddings.look_up_items(batch.item_ids)["id"].detach().clone()
        waiting.append(_stale(fetch(batch, built.parallel.embeddings, built.objectives), items))
        if len(waiting) == 2:
            yield waiting.pop(0)
    yield waiting.pop(0)


def _stale(fetched: PrefetchedBatch, items: Any) -> PrefetchedBatch:
    look_up = fetched.look_up.items["item"].look_up

    def early() -> Any:
        found = look_up()
        found["item"].values().data.copy_(items)
        return found

    fetched.look_up.items["item"].look_up = early  # type: ignore[method-assign]
    return fetched


def trained(context: DistributedContext, way: Any, objective: str) -> dict[str, np.ndarray]:
    config = small_config(objective)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.3))
    built = build(context, config, "ppr-full")
    mine = part(users(), context)
    batches = ((step, built.collator(mine, epoch=0, step=step, global_users=USERS)) for step in range(STEPS))
    count = 0
    for fetched in way(batches, built, context):
        train_step(built.parallel, fetched, built.objectives)
        count += 1
    assert count == STEPS
    dense = {n: p.detach().numpy().copy() for n, p in built.parallel.engine.module.named_parameters()}
    return whole_tables(built.parallel) | dense


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.exhaustive), 4])
def test_prefetched_batches_train_the_same_to_the_bit(world_size: int) -> None:
    (plain, *_), (prefetched, *_) = (run_ranks(trained, world_size, way, "softmax") for way in (in_step, ahead))
    for name, values in plain.items():
        assert np.array_equal(values, prefetched[name]), name


HOST = "split_table_batched_embeddings_ops_training.py"
"""FBGEMM reads its step count and its widths, which lie on the host."""


def waits(context: DistributedContext) -> tuple[list[str], list[str], set[str]]:
    """What happens in which order, the calls within a step that would wait for a GPU, and what travels over what."""
    import torchrec.distributed.dist_data as dist_data
    from torchrec.distributed.embedding import ShardedEmbeddingCollection
    from torchrec.sparse import jagged_tensor

    order, found, travelled = [], [], set()
    in_step = False

    def spy(owner: Any, function: str, event: str | None = None) -> None:
        plain = getattr(owner, function)

        def spied(*args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_code
            if event:
                order.append(event)
            if in_step and event != "sizes sent" and HOST not in caller.co_filename:
                found.append(f"{function} in {caller.co_qualname}")
            return plain(*args, **kwargs)

        setattr(owner, function, spied)

    def spy_on_group(owner: Any, function: str) -> None:
        plain = getattr(owner, function)

        def spied(*args: Any, group: Any = None, **kwargs: Any) -> Any:
            own = group or (args[2] if len(args) > 2 else None)
            travelled.add(f"{'vectors' if in_step else 'ids'} over {own is parallel.embeddings.ids_group}")
            return plain(*args, group=own, **kwargs) if len(args) < 3 else plain(*args, **kwargs)

        setattr(owner, function, spied)

    parallel, collator, objectives = build(context, small_config(), "ppr-full")
    batches = [
        (step, collator(part(users(), context), epoch=0, step=step, global_users=USERS)) for step in range(STEPS)
    ]
    spy(ShardedEmbeddingCollection, "input_dist", "sizes sent")
    spy(dist_data, "_safe_tolist_2d", "sizes known")
    spy(jagged_tensor.KeyedJaggedTensor, "dist_init", "arrived")
    for function in ("tolist", "item", "cpu", "nonzero", "numpy", "__bool__", "__int__", "__float__", "__index__"):
        spy(torch.Tensor, function)
    spy_on_group(dist, "all_to_all_single")
    spy_on_group(collectives, "_all_gather")
    for fetched in prefetch(batches, parallel.embeddings, objectives, context.device):
        order.append("step")
        in_step = True
        train_step(parallel, fetched, objectives)
        in_step = False
    return [event for event, _ in itertools.groupby(order)], found, travelled


def test_the_host_waits_between_steps_alone() -> None:
    for order, found, travelled in run_ranks(waits, 2):
        assert not found
        assert order[:4] == ["sizes sent", "sizes known", "sizes sent", "arrived"]
        # How many ids go where is told before a step and read after it; and so are the ids.
        assert order[4:-2] == ["step", "sizes known", "sizes sent", "arrived"] * (STEPS - 2) + ["step", "sizes known"]
        assert order[-2:] == ["arrived", "step"]
        assert travelled == {"ids over True", "vectors over False"}


def test_rows_ahead_would_show() -> None:
    (plain, *_), (stale, *_) = (run_ranks(trained, 2, way, "bce") for way in (in_step, rows_too))
    assert not np.array_equal(plain["item"], stale["item"])
