"""Every backbone, objective and tuning method trains alike on any number of ranks, resumed or not, at ZeRO 0 and 3."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Position
from ppr_dist.data.stream.user_stream import StreamState
from ppr_dist.parallel import dense
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.step_loss import start, step_loss
from ppr_dist.trainer import train_step
from tests.multirank import models
from tests.multirank.models import Built, whole_tables
from tests.ranks import run_ranks
from tests.registry.cases import CASES, USERS, Case, Once, build, fetched, of_each, partitioning, result

STEPS = range(4)
TOLERANCE = {"rtol": 2e-4, "atol": 2e-6}
STREAM = StreamState(fingerprint="f", split="pretrain", seed=0, batch=models.USERS)


def trained(context: DistributedContext, case: Case, zero_stage: int) -> dict[str, Any]:
    """Losses of each step; the dense gradients of the first (at ZeRO 0); tables at the end."""
    built = build(context, case, zero_stage=zero_stage)
    parallel, losses, gradients = built.parallel, [], {}
    for each in fetched(context, built, STEPS):
        items, profiles, labels = parallel.look_up(each.look_up)
        started = start(built.objectives, each.batch, items.scored, labels)
        encoded = parallel.engine(items.inputs, each.batch, profiles)
        loss = step_loss(built.objectives, each, items.scored, labels, encoded, started)
        parallel.engine.backward(loss.backward)
        if zero_stage == 0 and not losses:
            named = parallel.engine.module.named_parameters()
            gradients = {name: p.grad.numpy().copy() for name, p in named if p.grad is not None}
        parallel.engine.step()
        losses.append([float(part) for part in loss.parts.values()])
    return {"losses": losses, "gradients": gradients, "tables": whole_tables(parallel)}


def all_large(context: DistributedContext, zero_stage: int) -> dict[str, Any]:
    """:func:`trained` of each, where ZeRO 3 holds no parameter back as too small to be partitioned."""
    with partitioning():
        return of_each(context, list(CASES), trained, zero_stage)


def plain(world_size: int) -> list[dict[str, Any]]:
    return run_ranks(of_each, world_size, list(CASES), trained, 0, timeout=280)


@pytest.fixture(scope="module")
def one(once: Once) -> list[dict[str, Any]]:
    return once("trained-1", lambda: plain(1))


@pytest.fixture(scope="module")
def two(once: Once) -> list[dict[str, Any]]:
    return once("trained-2", lambda: plain(2))


@pytest.fixture(scope="module")
def four(once: Once) -> list[dict[str, Any]]:
    return once("trained-4", lambda: plain(4))


def test_some_users_have_no_clicks_or_one_and_some_values_are_unknown() -> None:
    assert {0, 1} < set(USERS.lengths.tolist())
    assert (USERS.attributes == 0).any()
    assert all({0, 1} <= set(labels.lengths.tolist()) for labels in USERS.labels.values())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ranks", ["two", pytest.param("four", marks=pytest.mark.exhaustive)])
def test_losses_gradients_and_table_updates_do_not_depend_on_the_number_of_ranks(
    name: str, ranks: str, one: list[dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    (alone,), many = result(one, name), result(request.getfixturevalue(ranks), name)
    assert np.abs(alone["losses"][0]).min() > 1e-4
    # The parts of the loss that ranks hold sum to the loss of the whole batch.
    np.testing.assert_allclose(np.sum([rank["losses"] for rank in many], axis=0), alone["losses"], rtol=2e-5)
    assert max(np.abs(gradient).max() for gradient in alone["gradients"].values()) > 1e-3
    for rank in many:
        for kind in ("gradients", "tables"):
            assert alone[kind].keys() == rank[kind].keys()
            for key, value in alone[kind].items():
                np.testing.assert_allclose(rank[kind][key], value, err_msg=f"{kind} of {key}", **TOLERANCE)


@pytest.fixture(scope="module")
def partitioned(once: Once) -> list[dict[str, Any]]:
    return once("trained-zero-3", lambda: run_ranks(all_large, 2, 3, timeout=280))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_zero_3_updates_like_zero_0(name: str, two: list[dict[str, Any]], partitioned: list[dict[str, Any]]) -> None:
    for whole, parts in zip(result(two, name), result(partitioned, name), strict=True):
        np.testing.assert_allclose(parts["losses"], whole["losses"], rtol=1e-4, atol=1e-6)
        for key, value in whole["tables"].items():
            np.testing.assert_allclose(parts["tables"][key], value, rtol=1e-3, atol=1e-4, err_msg=key)


def _state(built: Built) -> dict[str, np.ndarray]:
    found = {name: value.numpy() for name, value in dense.state_dict(built.parallel.engine).items()}
    return found | whole_tables(built.parallel)


def _on(context: DistributedContext, built: Built, steps: range) -> None:
    for each in fetched(context, built, steps):
        train_step(built.parallel, each, built.objectives)


def saved_and_on(context: DistributedContext, case: Case, folder: Path) -> dict[str, np.ndarray]:
    """Two steps, a checkpoint, two more."""
    built = build(context, case)
    _on(context, built, range(2))
    position = Position(step=2, stream=STREAM, world_size=context.world_size)
    Checkpointer(_folder(folder, case), keep=1).save(built.parallel, position)
    _on(context, built, range(2, 4))
    return _state(built)


def resumed(context: DistributedContext, case: Case, folder: Path) -> dict[str, np.ndarray]:
    """The last two of those steps."""
    built = build(context, case, stir=0.5)
    position = Checkpointer(_folder(folder, case), keep=1).resume(built.parallel, STREAM)
    assert position is not None
    assert position.step == 2
    _on(context, built, range(2, 4))
    return _state(built)


def _folder(folder: Path, case: Case) -> Path:
    return folder / f"{zlib.crc32(repr(dataclasses.astuple(case)).encode()):x}"


@pytest.fixture(scope="module")
def continued(
    once: Once, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("runs")

    def both() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        whole = run_ranks(of_each, 2, list(CASES), saved_and_on, folder, timeout=280)
        return whole, run_ranks(of_each, 2, list(CASES), resumed, folder, timeout=280)

    found: tuple[list[dict[str, Any]], list[dict[str, Any]]] = once("saved-and-resumed", both)
    return found


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(
    name: str, continued: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    for whole, again in zip(result(continued[0], name), result(continued[1], name), strict=True):
        assert whole.keys() == again.keys()
        for key, value in whole.items():
            np.testing.assert_array_equal(again[key], value, err_msg=key)
