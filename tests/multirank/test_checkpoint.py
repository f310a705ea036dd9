"""A resumed run goes on as if it had never stopped, to the bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch

from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.loading import load_tables
from ppr_dist.checkpoint.position import Position, checkpoints, chosen
from ppr_dist.data.stream.user_stream import StreamState
from ppr_dist.errors import UserError
from ppr_dist.parallel import dense
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.trainer import train_step
from tests.multirank.models import USERS, build, part, small_config, users, whole_tables
from tests.multirank.test_sharding_kinds import cluster_file
from tests.ranks import run_ranks

STREAM = StreamState(fingerprint="f", split="pretrain", seed=0, batch=USERS)


def _train(
    context: DistributedContext,
    run: Path,
    stage: int,
    start: int,
    stop: int,
    stream: StreamState = STREAM,
    precision: Literal["float32", "float16"] = "float32",
) -> dict[str, Any]:
    config = small_config(zero_stage=stage)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dropout=0.3),
        tables=dataclasses.replace(config.tables, precision=precision),
        train=dataclasses.replace(config.train, pretrained_lr=5e-3),  # the optimizer has two groups
    )
    parallel, collator, objectives = build(context, config, "ppr-full")
    checkpointer = Checkpointer(run, keep=1)
    if start:
        position = checkpointer.resume(parallel, stream)
        assert position is not None
        assert position.step == start
    for step in range(start, stop):
        batch = collator(part(users(), context), epoch=0, step=step, global_users=USERS)
        train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)
    if not start:
        checkpointer.save(parallel, Position(step=stop, stream=stream, world_size=context.world_size))
    dense = {n: p.detach().numpy().copy() for n, p in parallel.engine.module.named_parameters()}
    return {**whole_tables(parallel), **dense}


@pytest.mark.parametrize(
    ("world_size", "stage", "precision"),
    [(1, 0, "float32"), (2, 0, "float32"), (2, 1, "float16"), (2, 2, "float32"), (3, 3, "float32")],
)
def test_resume_equals_uninterrupted(tmp_path: Path, world_size: int, stage: int, precision: str) -> None:
    # ZeRO 3 frees parameters after use; its end state is compared through the tables, which see every difference.
    whole = run_ranks(_train, world_size, tmp_path / "whole", stage, 0, 4, STREAM, precision)
    run_ranks(_train, world_size, tmp_path / "parts", stage, 0, 2, STREAM, precision)
    resumed = run_ranks(_train, world_size, tmp_path / "parts", stage, 2, 4, STREAM, precision)
    for rank in range(world_size):
        for name, value in whole[rank].items():
            np.testing.assert_array_equal(resumed[rank][name], value, err_msg=name)


def _steps_counted(
    context: DistributedContext, run: Path, start: int, stop: int, method: str | None, init: Path | None = None
) -> list[Any]:
    """What FBGEMM's modules count, and what it counts while it trains from ``start`` to ``stop``."""
    parallel, collator, objectives = build(context, small_config(), method)
    embeddings, checkpointer = parallel.embeddings, Checkpointer(run, keep=1)
    if init:
        load_tables(embeddings, chosen(init).path, with_optimizer=True)
    if start:
        assert checkpointer.resume(parallel, STREAM) is not None
    counts = [{name: int(step) for name, step in embeddings.optimizer_steps().items()}]
    for step in range(start, stop):
        batch = collator(part(users(), context), epoch=0, step=step, global_users=USERS)
        train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)
        with torch.no_grad():  # a validation
            embeddings.look_up_batch(batch)
    checkpointer.save(parallel, Position(step=stop, stream=STREAM, world_size=context.world_size))
    kernels = [k for ks in embeddings._kernels.values() for k in ks]
    assert {int(k.iter) for k in kernels} == {int(k.iter_cpu) for k in kernels}
    return [*counts, {name: int(step) for name, step in embeddings.optimizer_steps().items()}]


def test_adam_goes_on_counting_its_steps(tmp_path: Path) -> None:
    """The count that its bias correction reads: FBGEMM's own on a GPU (tests/gpu/test_training.py too)."""
    for rank in run_ranks(_steps_counted, 2, tmp_path / "tune", 0, 3, "ppr-full"):
        assert rank == [{"items": 0, "profiles": 0}, {"items": 3, "profiles": 3}]
    for rank in run_ranks(_steps_counted, 2, tmp_path / "tune", 3, 5, "ppr-full"):
        assert rank == [{"items": 3, "profiles": 3}, {"items": 5, "profiles": 5}]
    # Tuning takes the items' moments over, and their steps; profile tables are new.
    run_ranks(_steps_counted, 2, tmp_path / "base", 0, 4, None)
    for rank in run_ranks(_steps_counted, 1, tmp_path / "next", 0, 1, "ppr-full", tmp_path / "base"):
        assert rank == [{"items": 4, "profiles": 0}, {"items": 5, "profiles": 1}]


def _refused(context: DistributedContext, run: Path, stream: StreamState) -> str:
    with pytest.raises(UserError) as error:
        _train(context, run, 0, 2, 3, stream)
    return str(error.value)


def test_resume_refuses_other_data(tmp_path: Path) -> None:
    run_ranks(_train, 2, tmp_path, 0, 0, 2)
    changed = run_ranks(_refused, 2, tmp_path, dataclasses.replace(STREAM, fingerprint="g"))
    assert "other data" in changed[0]
    reseeded = run_ranks(_refused, 2, tmp_path, dataclasses.replace(STREAM, seed=1))
    assert "seed 0, now 1" in reseeded[0]


class Layout(NamedTuple):
    """How a run lies on its ranks."""

    world_size: int
    kind: str
    zero_stage: int


LAYOUTS = {
    "one": Layout(1, "row_wise", 0),
    "rows": Layout(2, "row_wise", 1),
    "columns": Layout(3, "column_wise", 3),
    "tables": Layout(4, "table_wise", 2),  # ranks that hold no shard
}


def _laid_out(
    context: DistributedContext, run: Path, layout: Layout, steps: range, optimizer: str = "adagrad"
) -> dict[str, Any]:
    """Train from where the run stands, and save at the end; with dropout. Everything that an update reads."""
    cluster = run.parent / f"{layout.kind}-{layout.kind}.yaml"
    config = small_config(zero_stage=layout.zero_stage, cluster=cluster, optimizer=optimizer)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.3))
    parallel, collator, objectives = build(context, config, "ppr-full")
    checkpointer = Checkpointer(run, keep=9)
    position = checkpointer.resume(parallel, STREAM)
    assert (position.step if position else 0) == steps.start
    for step in steps:
        batch = collator(part(users(), context), epoch=step, step=step, global_users=USERS)
        train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)
    checkpointer.save(parallel, Position(step=steps.stop, stream=STREAM, world_size=context.world_size))
    found = {name: value.numpy() for name, value in dense.state_dict(parallel.engine).items()}
    # A bias of keys moves a row's scores alike: its gradient is 0 but for rounding, of which Adam makes whole steps.
    found["parameter.backbone.layers.0.qkv.bias"][16:32] = 0
    return whole_tables(parallel) | found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    run = tmp_path_factory.mktemp("whole") / "run"
    cluster_file(run.parent, "row_wise", "row_wise")
    found: dict[str, np.ndarray] = run_ranks(_laid_out, 1, run, LAYOUTS["one"], range(5))[0]
    return found


@pytest.mark.parametrize(
    "order",
    [
        ("one", "rows", "tables"),
        ("columns", "one", "columns"),
        ("tables", "columns", "rows"),
        ("rows", "tables", "one"),
    ],
    ids=" ".join,
)
def test_goes_on_under_any_other_layout(
    order: tuple[str, str, str], tmp_path: Path, uninterrupted: dict[str, np.ndarray]
) -> None:
    """Two steps, two more, one more, each under another number of ranks, sharding and ZeRO stage."""
    for name, steps in zip(order, (range(2), range(2, 4), range(4, 5)), strict=True):
        layout = LAYOUTS[name]
        cluster_file(tmp_path, layout.kind, layout.kind)
        ranks = run_ranks(_laid_out, layout.world_size, tmp_path / "run", layout, steps)
    for rank in ranks:
        assert rank.keys() == uninterrupted.keys()
        for key, value in uninterrupted.items():
            np.testing.assert_allclose(rank[key], value, rtol=1e-4, atol=2e-6, err_msg=key)


def test_adam_on_a_cpu_goes_on_under_another_layout(tmp_path: Path) -> None:
    for kind in ("row_wise", "column_wise"):
        cluster_file(tmp_path, kind, kind)
    (whole,) = run_ranks(_laid_out, 1, tmp_path / "whole", LAYOUTS["one"], range(4), "adam")
    run_ranks(_laid_out, 3, tmp_path / "parts", LAYOUTS["columns"], range(3), "adam")
    for rank in run_ranks(_laid_out, 2, tmp_path / "parts", LAYOUTS["rows"], range(3, 4), "adam"):
        for key, value in whole.items():
            np.testing.assert_allclose(rank[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


def _refused_columns(context: DistributedContext, run: Path) -> str:
    with pytest.raises(UserError) as error:
        _laid_out(context, run, LAYOUTS["columns"], range(1, 2), "rowwise_adagrad")
    return str(error.value)


def test_a_row_wise_optimizer_goes_on_with_the_same_parts_of_columns(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for kind in ("row_wise", "column_wise"):
        cluster_file(tmp_path, kind, kind)
    run_ranks(_laid_out, 2, run, LAYOUTS["rows"], range(1), "rowwise_adagrad")
    for said in run_ranks(_refused_columns, 3, run):
        assert "a row-wise optimizer keeps a number of each row and part of its columns" in said


def test_only_complete_checkpoints_count(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in ("step-00000002", ".step-00000004", "step-00000003"):
        (folder / name).mkdir(parents=True)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]


def _loaded_strictly(context: DistributedContext, run: Path) -> list[str]:
    """What is said to the tables of some methods, with and without prompts, of a checkpoint of ppr-full."""
    parallel, _, _ = build(context, small_config(), "ppr-full")
    Checkpointer(run, keep=1).save(parallel, Position(step=1, stream=STREAM, world_size=context.world_size))
    said = []
    for method in ("ppr-light", "fine-tune", None):
        embeddings = build(context, small_config(), method)[0].embeddings
        try:
            load_tables(embeddings, chosen(run).path, with_optimizer=False, strict=True)
            said.append("")
        except UserError as error:
            said.append(str(error).partition(": ")[2])
    return said


@pytest.mark.parametrize("world_size", [1, 3])
def test_scoring_wants_the_tables_of_the_checkpoint_and_no_others(world_size: int, tmp_path: Path) -> None:
    for said in run_ranks(_loaded_strictly, world_size, tmp_path):
        same, without_prompt, untuned = said
        assert same == ""
        assert without_prompt.startswith("holds another model: only it has profiles.embeddings.prompt:age")
        assert untuned.startswith("holds another model: only it has profiles.embeddings.profile_encoder:age")
