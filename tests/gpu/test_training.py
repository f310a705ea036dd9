"""Training on a GPU: bfloat16 and FBGEMM's GPU-only optimizers learn; a checkpoint brings everything back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Position
from ppr_dist.config import Config
from ppr_dist.data.stream.user_stream import StreamState
from ppr_dist.parallel import dense
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.trainer import train_step
from tests.multirank.models import USERS, Built, build, small_config, users, whole_tables

pytestmark = pytest.mark.gpu
STREAM = StreamState(fingerprint="f", split="pretrain", seed=0, batch=USERS)


def _config(*, optimizer: str = "rowwise_adagrad", precision: str = "float32", stage: int = 0) -> Config:
    config = small_config("softmax", optimizer=optimizer, zero_stage=stage)
    train = dataclasses.replace(config.train, precision=precision)  # type: ignore[arg-type]
    model = dataclasses.replace(config.model, dropout=0.3)
    return dataclasses.replace(config, model=model, train=train)


def _train(built: Built, gpu: DistributedContext, numbers: range) -> list[float]:
    """Losses of steps over one batch, whose negatives and dropout differ from step to step."""
    parallel, collator, objectives = built
    parallel.engine.train()
    losses = []
    for number in numbers:
        batch = collator(users(), epoch=0, step=number, global_users=USERS).to(gpu.device)
        loss = train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)
        losses.append(float(loss.parts["softmax"]))
    return losses


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bfloat16_learns_and_keeps_float32_state(stage: int, gpu: DistributedContext) -> None:
    config = _config(precision="bfloat16", stage=stage)
    built = build(gpu, config, "ppr-full")
    parallel = built.parallel
    losses = _train(built, gpu, range(30))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert {weight.dtype for _, weight, _, _ in parallel.embeddings.local_shards()} == {torch.float32}
    # A step of lr 1e-2 / 1000 is lost in bfloat16's 8 bits, so the trained values must be held in float32.
    dense.scale_lr(parallel.engine, 1e-3)
    before = dense.state_dict(parallel.engine)
    _train(built, gpu, range(30, 31))
    after = dense.state_dict(parallel.engine)
    name = "parameter.backbone.layers.0.up.weight"
    moved = (after[name] != before[name]).float().mean()
    assert moved > 0.9
    assert (after[name].bfloat16() != after[name]).float().mean() > 0.9


@pytest.mark.parametrize("optimizer", ["adam", "partial_rowwise_adam"])
def test_gpu_only_table_optimizers_learn(optimizer: str, gpu: DistributedContext) -> None:
    config = _config(optimizer=optimizer)
    config = dataclasses.replace(config, tables=dataclasses.replace(config.tables, lr=0.01))
    built = build(gpu, config, "ppr-full")
    parallel = built.parallel
    before = whole_tables(parallel)
    losses = _train(built, gpu, range(30))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    for name, table in whole_tables(parallel).items():
        assert np.abs(table - before[name]).max() > 1e-3, name


@pytest.mark.parametrize(
    ("optimizer", "precision", "stage"),
    [
        ("rowwise_adagrad", "float32", 0),
        ("rowwise_adagrad", "bfloat16", 0),
        ("rowwise_adagrad", "bfloat16", 1),
        ("adam", "float32", 0),
        ("partial_rowwise_adam", "float32", 0),
    ],
)
def test_resume_brings_everything_back(
    optimizer: str, precision: str, stage: int, gpu: DistributedContext, tmp_path: Path
) -> None:
    config = _config(optimizer=optimizer, precision=precision, stage=stage)
    built = build(gpu, config, "ppr-full")
    parallel = built.parallel
    _train(built, gpu, range(3))
    checkpointer = Checkpointer(tmp_path, keep=1)
    checkpointer.save(parallel, Position(step=3, stream=STREAM, world_size=1))
    tables, state = whole_tables(parallel), dense.state_dict(parallel.engine)
    expected = _train(built, gpu, range(3, 6))

    resumed = build(gpu, config, "ppr-full")
    assert checkpointer.resume(resumed.parallel, STREAM) is not None
    # To the bit: what was saved …
    for name, value in whole_tables(resumed.parallel).items():
        np.testing.assert_array_equal(value, tables[name], err_msg=name)
    again = dense.state_dict(resumed.parallel.engine)
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(again[name], tensor), name
    # … but not the steps after it: gradients gathered by atomic additions differ in the last bits from run to run.
    found = _train(resumed, gpu, range(3, 6))
    np.testing.assert_allclose(found, expected, rtol=1e-2 if precision == "bfloat16" else 1e-3)


def test_a_resumed_adam_steps_as_far_as_one_never_stopped(gpu: DistributedContext, tmp_path: Path) -> None:
    """Adam's bias correction goes on: begun anew at step 51, a table would move a third as far."""
    config = _config(optimizer="adam")
    config = dataclasses.replace(config, tables=dataclasses.replace(config.tables, lr=0.01))
    built = build(gpu, config, "ppr-full")
    parallel = built.parallel
    _train(built, gpu, range(50))
    Checkpointer(tmp_path, keep=1).save(parallel, Position(step=50, stream=STREAM, world_size=1))
    _train(built, gpu, range(50, 51))
    expected = whole_tables(parallel)

    resumed, untouched = (build(gpu, config, "ppr-full") for _ in range(2))
    for again in (resumed, untouched):
        assert Checkpointer(tmp_path, keep=1).resume(again.parallel, STREAM) is not None
        assert {int(step) for step in again.parallel.embeddings.optimizer_steps().values()} == {50}
    _train(resumed, gpu, range(50, 51))
    before = whole_tables(untouched.parallel)
    for name, table in whole_tables(resumed.parallel).items():
        moved, want = np.abs(table - before[name]).sum(), np.abs(expected[name] - before[name]).sum()
        np.testing.assert_allclose(moved, want, rtol=1e-2, err_msg=name)
