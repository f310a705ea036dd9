"""A training step only hands work to the GPU: the host never waits for it.

Between several ranks the host must learn how many ids each will send: between two steps, on a stream of its own
(tests/multirank/test_ahead.py sees where). DeepSpeed at ZeRO 1 to 3 asks whether the gradient's norm is finite, which
cannot be helped from outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from ppr_dist.config import Config, Logging
from ppr_dist.guards.finite import FiniteGuard
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.parallel.dense import grad_norm, scale_lr
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch, prefetch, side_stream
from ppr_dist.tracking.metric_logger import MetricLogger
from ppr_dist.trainer import train_step
from ppr_dist.tuning import TUNING_METHODS
from tests.multirank.models import USERS, build, part, small_config, users
from tests.ranks import run_ranks

pytestmark = pytest.mark.gpu
WARM_UP = 3
"""Steps in which kernels load, workspaces are made and FBGEMM's Adam reads its step count once."""


@contextmanager
def no_host_sync() -> Iterator[None]:
    """Raise where the host waits for the GPU inside."""

    def refuse(*args: Any) -> None:
        raise AssertionError("the host waits for the GPU")

    with pytest.MonkeyPatch.context() as patch:
        # The debug mode sees copies and waits for a stream, but not these.
        patch.setattr(torch.cuda, "synchronize", refuse)
        patch.setattr(torch.cuda.Event, "synchronize", refuse)
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_guard_sees_a_wait() -> None:
    one = torch.ones(1, device="cuda")
    for wait in (one.item, one.cpu, one.nonzero, lambda: torch.tensor([1], device="cuda")):
        with pytest.raises(RuntimeError, match="synchronizing"), no_host_sync():
            wait()
    with pytest.raises(AssertionError, match="waits"), no_host_sync():
        torch.cuda.synchronize()
    with pytest.raises(AssertionError, match="waits"), no_host_sync():
        torch.cuda.Event().synchronize()


def _small(objective: str, *, precision: str, optimizer: str = "rowwise_adagrad", backbone: str = "sasrec") -> Config:
    config = small_config(objective, optimizer=optimizer, backbone=backbone)
    train = dataclasses.replace(config.train, precision=precision)  # type: ignore[arg-type]
    return dataclasses.replace(config, train=train, logging=Logging(progress=False))


@pytest.mark.parametrize("method", [None, "ppr-full"])
@pytest.mark.parametrize(
    ("objective", "precision", "optimizer"),
    [
        ("softmax", "float32", "rowwise_adagrad"),
        ("softmax", "bfloat16", "rowwise_adagrad"),
        ("full_softmax", "float32", "sgd"),
        ("bpr", "bfloat16", "adam"),
        ("bce", "float32", "partial_rowwise_adam"),
        ("gbce", "float32", "rowwise_adagrad"),
        ("attribute", "float32", "rowwise_adagrad"),
    ],
)
def test_a_step_never_waits(
    objective: str, precision: str, optimizer: str, method: str | None, gpu: DistributedContext, tmp_path: Path
) -> None:
    _check_no_wait(_small(objective, precision=precision, optimizer=optimizer), method, gpu, tmp_path)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_backbone_waits(backbone: str, precision: str, gpu: DistributedContext, tmp_path: Path) -> None:
    _check_no_wait(_small("softmax", precision=precision, backbone=backbone), "ppr-full", gpu, tmp_path)


@pytest.mark.parametrize("method", TUNING_METHODS)
def test_no_tuning_method_waits(method: str, gpu: DistributedContext, tmp_path: Path) -> None:
    _check_no_wait(_small("softmax", precision="float32"), method, gpu, tmp_path)


def _check_no_wait(config: Config, method: str | None, gpu: DistributedContext, folder: Path) -> None:
    parallel, collator, objectives = build(gpu, config, method)
    logger = MetricLogger(folder, config, gpu, parallel, total_steps=100, first_step=0, stage="test")
    finite = FiniteGuard(folder, folder)
    batches = [collator(users(), epoch=0, step=s, global_users=USERS).pin_memory() for s in range(WARM_UP + 2)]

    def step(number: int) -> None:
        """What the training loop does between two reports."""
        scale_lr(parallel.engine, 1 / (number + 1))
        parallel.embeddings.scale_lr(1 / (number + 1))
        fetched = fetch(batches[number].to(gpu.device), parallel.embeddings, objectives)
        loss = train_step(parallel, fetched, objectives)
        finite.note(number + 1, loss, grad_norm(parallel.engine), fetched.batch)
        assert not finite.seen()
        logger.step(number + 1, 0, 1e-3, loss, fetched)

    for number in range(WARM_UP):
        step(number)
    with no_host_sync():
        for number in range(WARM_UP, len(batches)):
            step(number)
    finite.require_finite()
    logger.flush(len(batches), 0, 1e-3)
    logger.close()
    assert '"loss": nan' not in (folder / "metrics.jsonl").read_text().lower()


def _steps_among_ranks(context: DistributedContext, method: str | None) -> list[float]:
    parallel, collator, objectives = build(context, _small("softmax", precision="bfloat16"), method)
    mine, losses = part(users(), context), []
    numbers = range(WARM_UP + 4)
    batches = ((s, collator(mine, epoch=0, step=s, global_users=USERS).pin_memory()) for s in numbers)
    for number, fetched in enumerate(prefetch(batches, parallel.embeddings, objectives, context.device)):
        with no_host_sync() if number >= WARM_UP else nullcontext():
            losses.append(train_step(parallel, fetched, objectives).total)
    return [float(loss) for loss in losses]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("method", [None, "ppr-full"])
def test_a_step_of_two_ranks_never_waits(method: str | None) -> None:
    for losses in run_ranks(_steps_among_ranks, 2, method, gpus=True):
        assert torch.tensor(losses).isfinite().all()


def test_one_side_stream_for_all_epochs(gpu: DistributedContext) -> None:
    assert side_stream(gpu.device) is side_stream(torch.device("cuda", 0))
    assert side_stream(gpu.device) != torch.cuda.current_stream()
