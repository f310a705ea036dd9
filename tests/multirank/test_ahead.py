"""Training with ids sent one batch ahead against sending them in their own step."""

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
from ppr_dist.parallel.ahead import one_ahead

from ppr_dist.batch import Batch
from ppr_dist.parallel import collectives
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.trainer import Sent, send, start, train_step
from tests.multirank.models import USERS, build, part, small_config, users, whole_tables, with_loss
from tests.ranks import run_ranks

STEPS = 5


def in_step(
    batches: Iterable[tuple[int, Batch]], parallel: Parallel, _: DistributedContext
) -> Iterator[tuple[Batch, Sent]]:
    for _, batch in batches:
        yield batch, send(parallel, batch)


def ahead(
    batches: Iterable[tuple[int, Batch]], parallel: Parallel, context: DistributedContext
) -> Iterator[tuple[Batch, Sent]]:
    order: list[str] = []

    def noted() -> Iterator[tuple[int, Batch]]:
        for step, batch in batches:
            order.append(f"read {step}")
            yield step, batch

    for step, pair in enumerate(one_ahead(noted(), lambda batch: start(parallel, batch), context.device)):
        order.append(f"train {step}")
        yield pair
    # The next batch's ids are on their way before this one trains.
    assert order.index("read 2") < order.index("train 1") < order.index("read 3")


def rows_too(
    batches: Iterable[tuple[int, Batch]], parallel: Parallel, _: DistributedContext
) -> Iterator[tuple[Batch, Sent]]:
    """What must not be done: rows looked up before the update of the step before."""
    tables, waiting = parallel.tables, []
    for _, batch in batches:
        items = tables.look_up_items(batch.item_ids).detach().clone()
        waiting.append((batch, send(parallel, batch), items))
        if len(waiting) == 2:
            yield _stale(*waiting.pop(0))
    yield _stale(*waiting.pop(0))


def _stale(batch: Batch, sent: Sent, items: Any) -> tuple[Batch, Sent]:
    look_up = sent.ids.items.look_up

    def early() -> Any:
        found = look_up()
        found["item"].values().data.copy_(items)
        return found

    sent.ids.items.look_up = early  # type: ignore[method-assign]
    return batch, sent


def trained(context: DistributedContext, way: Any, loss: str) -> dict[str, np.ndarray]:
    config = small_config(with_loss(loss))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.3))
    parallel, collator = build(context, config, tuning=True)
    mine = part(users(), context)
    batches = ((step, collator(mine, epoch=0, step=step, global_users=USERS)) for step in range(STEPS))
    count = 0
    for batch, sent in way(batches, parallel, context):
        train_step(parallel, batch, sent, config)
        count += 1
    assert count == STEPS
    return whole_tables(parallel) | {n: p.detach().numpy().copy() for n, p in parallel.engine.module.named_parameters()}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ids_ahead_train_the_same_to_the_bit(world_size: int) -> None:
    (plain, *_), (piped, *_) = (run_ranks(trained, world_size, way, "softmax") for way in (in_step, ahead))
    for name, values in plain.items():
        assert np.array_equal(values, piped[name]), name


HOST = "split_table_batched_embeddings_ops_training.py"
"""FBGEMM reads its step count and its widths, which lie on the host."""


def waits(context: DistributedContext) -> tuple[list[str], list[str], set[str]]:
    """What happens in which order, the calls within a step that would wait for a GPU, and who sends over what."""
    import torchrec.distributed.dist_data as dist_data
    from torchrec.distributed.embedding import ShardedEmbeddingCollection
    from torchrec.sparse import jagged_tensor

    order, found, sent_over = [], [], set()
    in_step = False

    def spy(owner: Any, function: str, event: str | None = None) -> None:
        plain = getattr(owner, function)

        def spied(*args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_code
            if event:
                order.append(event)
            if in_step and event != "announced" and HOST not in caller.co_filename:
                found.append(f"{function} in {caller.co_qualname}")
            return plain(*args, **kwargs)

        setattr(owner, function, spied)

    def spy_on_group(owner: Any, function: str) -> None:
        plain = getattr(owner, function)

        def spied(*args: Any, group: Any = None, **kwargs: Any) -> Any:
            own = group or (args[2] if len(args) > 2 else None)
            sent_over.add(f"{'vectors' if in_step else 'ids'} over {own is parallel.embeddings.ids_group}")
            return plain(*args, group=own, **kwargs) if len(args) < 3 else plain(*args, **kwargs)

        setattr(owner, function, spied)

    config = small_config(with_loss("softmax"))
    parallel, collator = build(context, config, tuning=True)
    batches = [
        (step, collator(part(users(), context), epoch=0, step=step, global_users=USERS)) for step in range(STEPS)
    ]
    spy(ShardedEmbeddingCollection, "input_dist", "announced")
    spy(dist_data, "_safe_tolist_2d", "sizes known")
    spy(jagged_tensor.KeyedJaggedTensor, "dist_init", "arrived")
    for function in ("tolist", "item", "cpu", "nonzero", "numpy", "__bool__", "__int__", "__float__", "__index__"):
        spy(torch.Tensor, function)
    spy_on_group(dist, "all_to_all_single")
    spy_on_group(collectives, "_all_gather")
    for batch, sent in one_ahead(batches, lambda batch: start(parallel, batch), context.device):
        order.append("step")
        in_step = True
        train_step(parallel, batch, sent, config)
        in_step = False
    return [event for event, _ in itertools.groupby(order)], found, sent_over


def test_the_host_waits_between_steps_alone() -> None:
    for order, found, sent_over in run_ranks(waits, 2):
        assert not found
        assert order[:4] == ["announced", "sizes known", "announced", "arrived"]
        # How many ids go where is told before a step and read after it; and so are the ids.
        assert order[4:-2] == ["step", "sizes known", "announced", "arrived"] * (STEPS - 2) + ["step", "sizes known"]
        assert order[-2:] == ["arrived", "step"]
        assert sent_over == {"ids over True", "vectors over False"}


def test_rows_ahead_would_show() -> None:
    (plain, *_), (stale, *_) = (run_ranks(trained, 2, way, "bce") for way in (in_step, rows_too))
    assert not np.array_equal(plain["item"], stale["item"])
