"""A training step only hands work to the GPU: the host never waits for it.

One rank. Between several, TorchRec tells the host how many ids each rank will send (its input_dist), and DeepSpeed at
ZeRO 1 to 3 asks whether the gradient's norm is finite; neither can be helped from outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ppr_dist.config import Config, Observe
from ppr_dist.observe import Observer
from ppr_dist.parallel.dense import set_lr
from ppr_dist.parallel.mesh import Mesh
from ppr_dist.trainer import send, train_step
from tests.multirank.models import USERS, build, small_config, users, with_loss

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


def _small(kind: str, *, precision: str, optimizer: str = "rowwise_adagrad") -> Config:
    config = small_config(with_loss(kind), optimizer=optimizer)
    train = dataclasses.replace(config.train, precision=precision)  # type: ignore[arg-type]
    return dataclasses.replace(config, train=train, observe=Observe(progress=False))


@pytest.mark.parametrize("tuning", [False, True], ids=["pretrain", "tune"])
@pytest.mark.parametrize(
    ("kind", "precision", "optimizer"),
    [
        ("softmax", "float32", "rowwise_adagrad"),
        ("softmax", "bfloat16", "rowwise_adagrad"),
        ("full_softmax", "float32", "sgd"),
        ("bpr", "bfloat16", "adam"),
        ("bce", "float32", "partial_rowwise_adam"),
    ],
)
def test_a_step_never_waits(kind: str, precision: str, optimizer: str, tuning: bool, gpu: Mesh, tmp_path: Path) -> None:
    config = _small(kind, precision=precision, optimizer=optimizer)
    parallel, collator = build(gpu, config, tuning=tuning)
    observer = Observer(tmp_path, config, gpu, total_steps=100, first_step=0, job="test")
    batches = [collator(users(), epoch=0, step=s, global_users=USERS).pin_memory() for s in range(WARM_UP + 2)]

    def step(number: int) -> None:
        """What the training loop does between two reports."""
        set_lr(parallel.engine, 1e-3 / (number + 1))
        parallel.tables.set_lr(0.1 / (number + 1))
        batch = batches[number].to(gpu.device)
        loss = train_step(parallel, batch, send(parallel, batch), config)
        observer.step(
            number + 1,
            0,
            1e-3,
            prediction=loss.prediction,
            contrastive=loss.contrastive,
            users=len(batch.users),
            targets=batch.total_targets,
        )

    for number in range(WARM_UP):
        step(number)
    with no_host_sync():
        for number in range(WARM_UP, len(batches)):
            step(number)
    observer.flush(len(batches), 0, 1e-3)
    observer.close()
    assert '"loss": nan' not in (tmp_path / "metrics.jsonl").read_text().lower()
