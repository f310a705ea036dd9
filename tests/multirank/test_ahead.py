"""Training with ids sent one batch ahead against sending them in their own step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from ppr_dist.batch import Batch
from ppr_dist.parallel.ahead import one_ahead
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.mesh import Mesh
from ppr_dist.trainer import Sent, send, train_step
from tests.multirank.models import USERS, build, part, small_config, users, whole_tables, with_loss
from tests.ranks import run_ranks

STEPS = 5


def in_step(batches: Iterable[tuple[int, Batch]], parallel: Parallel, _: Mesh) -> Iterator[tuple[Batch, Sent]]:
    for _, batch in batches:
        yield batch, send(parallel, batch)


def ahead(batches: Iterable[tuple[int, Batch]], parallel: Parallel, mesh: Mesh) -> Iterator[tuple[Batch, Sent]]:
    order: list[str] = []

    def noted() -> Iterator[tuple[int, Batch]]:
        for step, batch in batches:
            order.append(f"read {step}")
            yield step, batch

    for step, pair in enumerate(one_ahead(noted(), lambda batch: send(parallel, batch), mesh.device)):
        order.append(f"train {step}")
        yield pair
    # The next batch's ids are on their way before this one trains.
    assert order.index("read 2") < order.index("train 1") < order.index("read 3")


def rows_too(batches: Iterable[tuple[int, Batch]], parallel: Parallel, _: Mesh) -> Iterator[tuple[Batch, Sent]]:
    """What must not be done: rows looked up before the update of the step before."""
    tables, waiting = parallel.tables, []
    for _, batch in batches:
        sent = tables.send_ids(batch)
        items = tables._item_vectors(sent.items).detach().clone()
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


def trained(mesh: Mesh, way: Any, loss: str) -> dict[str, np.ndarray]:
    config = small_config(with_loss(loss))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.3))
    parallel, collator = build(mesh, config, tuning=True)
    mine = part(users(), mesh)
    batches = ((step, collator(mine, epoch=0, step=step, global_users=USERS)) for step in range(STEPS))
    count = 0
    for batch, sent in way(batches, parallel, mesh):
        train_step(parallel, batch, sent, config)
        count += 1
    assert count == STEPS
    return whole_tables(parallel) | {n: p.detach().numpy().copy() for n, p in parallel.engine.module.named_parameters()}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ids_ahead_train_the_same_to_the_bit(world_size: int) -> None:
    (plain, *_), (piped, *_) = (run_ranks(trained, world_size, way, "softmax") for way in (in_step, ahead))
    for name, values in plain.items():
        assert np.array_equal(values, piped[name]), name


def test_rows_ahead_would_show() -> None:
    (plain, *_), (stale, *_) = (run_ranks(trained, 2, way, "bce") for way in (in_step, rows_too))
    assert not np.array_equal(plain["item"], stale["item"])
