"""Label spaces that are tables: one gradient, checkpoints and rankings on any number of ranks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist.batch import Batch
from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Position
from ppr_dist.config import Config
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream.user_stream import StreamState
from ppr_dist.evaluation import evaluate
from ppr_dist.model.encoded import Encoded
from ppr_dist.objectives.labels import head_name
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.parallel.tables import label_table
from ppr_dist.scoring import ModelScorer
from ppr_dist.trainer import train_step
from tests.multirank.models import ITEMS, LABELS, USERS, build, part, small_config, steps, users, whole_tables
from tests.multirank.test_evaluation import small_chunks
from tests.ranks import run_ranks
from tests.shards import random_users, write_data

STREAM = StreamState(fingerprint="f", split="pretrain", seed=0, batch=USERS)
ORDERS = label_table("orders")
TOLERANCE = {"rtol": 2e-4, "atol": 2e-6}


def config_of(*, dense_up_to: int = 2, **changes: Any) -> Config:
    """All spaces are tables by default; one of three rows, which four ranks cannot share."""
    of_labels = {"dense_up_to": dense_up_to, "uniform_negatives": 21, "in_batch_per_user": 2}
    return dataclasses.replace(small_config("labels", labels=of_labels), **changes)


def test_losses_gradients_and_updated_rows_do_not_depend_on_the_number_of_ranks() -> None:
    config = config_of()
    (before,), (one,) = run_ranks(steps, 1, config, None, 0), run_ranks(steps, 1, config)
    assert {label_table(space.name) for space in LABELS} < set(one["tables"])
    moved = np.abs(one["tables"][ORDERS] - before["tables"][ORDERS]).max(axis=1) > 1e-3
    assert 21 <= moved.sum() < len(moved)  # what nobody has and nobody drew stands still
    for world_size in (2, 4):
        many = run_ranks(steps, world_size, config)
        np.testing.assert_allclose(np.sum([rank["losses"] for rank in many], axis=0), one["losses"], rtol=1e-5)
        for rank in many:
            for kind in ("gradients", "tables"):
                assert one[kind].keys() == rank[kind].keys()
                for name, value in one[kind].items():
                    np.testing.assert_allclose(rank[kind][name], value, err_msg=name, **TOLERANCE)


def _trained(context: DistributedContext, run: Path, first: int, last: int) -> dict[str, np.ndarray]:
    """Tables where the run stands, then trained to step ``last``, saved, and the state that its updates read."""
    config = config_of()
    parallel, collator, objectives = build(context, config)
    checkpointer = Checkpointer(run, keep=9)
    position = checkpointer.resume(parallel, STREAM)
    assert (position.step if position else 0) == first
    found = {f"begins {name}": table for name, table in whole_tables(parallel).items()}
    for step in range(first, last):
        batch = collator(part(users(), context), epoch=0, step=step, global_users=USERS)
        train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)
    checkpointer.save(parallel, Position(step=last, stream=STREAM, world_size=context.world_size))
    return found | whole_tables(parallel)


@pytest.mark.parametrize(("ranks", "then"), [(2, 2), (2, 1), (1, 3), (3, 4)])
def test_a_checkpoint_goes_on_on_any_number_of_ranks(ranks: int, then: int, tmp_path: Path) -> None:
    saved = run_ranks(_trained, ranks, tmp_path / "run", 0, 2)[0]
    (whole,) = run_ranks(_trained, 1, tmp_path / "whole", 0, 3)
    for rank in run_ranks(_trained, then, tmp_path / "run", 2, 3):
        for name in (ORDERS, label_table("answer"), "item"):
            np.testing.assert_array_equal(rank[f"begins {name}"], saved[name])
            np.testing.assert_allclose(rank[name], whole[name], err_msg=name, **TOLERANCE)
    if then == ranks:  # as if it had never stopped, to the bit
        unbroken = run_ranks(_trained, ranks, tmp_path / "unbroken", 0, 3)[0]
        np.testing.assert_array_equal(rank[ORDERS], unbroken[ORDERS])


class Multiplied(ModelScorer):
    """Scores labels by a product with the whole table."""

    def encode(self, batch: Batch, *, heads: bool = True) -> Encoded:
        encoded = super().encode(batch, heads=heads)
        tables: dict[str, torch.Tensor] = self.tables  # type: ignore[attr-defined]
        logits = {name: user @ tables[name].T for name, user in encoded.heads.items()}
        return encoded._replace(heads=logits)


@torch.no_grad()
def _ranked(context: DistributedContext, data: Path) -> list[dict[str, Any]]:
    """Metrics of each protocol, by the sharded tables and by products with the whole of them, in turn."""
    small_chunks()
    config, found = config_of(), []
    parallel, *_ = build(context, config, stir=0.1)
    parallel.engine.eval()
    made = parallel.embeddings, parallel.engine, context.device
    multiplied = Multiplied(*made)
    tables = {head_name(s.name): torch.from_numpy(whole_tables(parallel)[label_table(s.name)]) for s in LABELS}
    object.__setattr__(multiplied, "tables", tables)
    manifest = load_manifest(data)
    several = tuple(dataclasses.replace(space, most=9) for space in manifest.labels)  # and so are ranked
    for protocol in ("full", "sampled-2"):
        for scorer, of_scorer, there in (
            (ModelScorer(*made), config, manifest),
            (multiplied, config_of(dense_up_to=10**6), dataclasses.replace(manifest, labels=several)),
        ):
            given = {"task": "labels", "protocol": protocol, "config": of_scorer, "batch": 7}
            found.append(evaluate(scorer, data, there, context, **given))
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_rankings_are_those_of_products_with_the_whole_table(world_size: int, tmp_path: Path) -> None:
    asked = random_users(60, ITEMS, longest=9, labels=LABELS)
    write_data(tmp_path / "data", {"tune-test": asked}, items=ITEMS, per_shard=8, labels=LABELS)
    for rank in run_ranks(_ranked, world_size, tmp_path / "data"):
        for by_table, by_product in zip(rank[::2], rank[1::2], strict=True):
            assert by_table.keys() == by_product.keys()
            assert by_table["orders.instances"] == len(asked.labels["orders"].values)
            figures = [{n: v for n, v in each.items() if not isinstance(v, str)} for each in (by_table, by_product)]
            assert figures[0] == pytest.approx(figures[1], rel=1e-9)
        assert rank[0]["answer.instances"] == len(asked.labels["answer"].values)
        # Rows that know nothing of users say nothing of their labels.
        assert rank[0]["orders.auc"] == pytest.approx(0.5, abs=4 / (12 * rank[0]["orders.instances"]) ** 0.5)
