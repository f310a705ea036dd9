"""What a run tells: progress bar, metrics.jsonl, W&B, and where the time of a step goes."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ppr_dist.batch import Batch
from ppr_dist.config import Config
from ppr_dist.files import read_lines, replace
from ppr_dist.parallel.collectives import all_sum
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.step_loss import StepLoss
from ppr_dist.tracking.wandb_run import WandbRun

Item = TypeVar("Item")

LINE_EVERY = 10.0
"""Seconds between progress lines where there is no terminal."""


class MetricLogger:
    """Collects per-step figures on the device and reports them every ``log_every`` steps from rank 0."""

    def __init__(
        self, run: Path, config: Config, context: DistributedContext, *, total_steps: int, first_step: int, stage: str
    ) -> None:
        self.context, self.every, self.stage, self.total_steps = context, config.train.log_every, stage, total_steps
        self.sums: dict[str, Tensor] = {}
        """Of the loss and, where there are several, of each objective; on the device, so that nothing waits."""
        self.users = self.targets = self.steps = 0
        self.waited = 0.0
        self.began = self.last = time.perf_counter()
        self.bar = self.file = self.wandb = None
        self.loss: float | None = None
        # Where no terminal shows a bar (a batch job's log), a line now and then says the same.
        self.lines, self.printed = config.logging.progress and not sys.stderr.isatty(), self.began
        if context.main:
            self.file = _from_step(run / "metrics.jsonl", first_step)
            self.bar = tqdm(
                total=total_steps,
                initial=first_step,
                desc=stage,
                unit="step",
                disable=None if config.logging.progress else True,
                dynamic_ncols=True,
            )
            self.wandb = WandbRun(run, config, stage) if config.logging.wandb else None

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass ``batches`` on, counting the time until each comes as waiting for data."""
        start = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def step(self, step: int, epoch: int, lr: float, loss: StepLoss, batch: Batch) -> None:
        """Note one step; every ``log_every`` steps sum over ranks and report. A collective at those steps."""
        named = {"loss": loss.total} | (loss.parts if len(loss.parts) > 1 else {})
        for name, value in named.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.double()
        self.users += len(batch.users)
        self.targets += len(batch.targets)
        self.steps += 1
        if self.bar is not None:
            self.bar.update()
        if step % self.every == 0:
            self.flush(step, epoch, lr)

    def flush(self, step: int, epoch: int, lr: float) -> None:
        """Report what has gathered since the last report. A collective."""
        if not self.steps:
            return
        losses = torch.stack(list(self.sums.values()))
        mine = torch.cat([losses, losses.new_tensor([self.users, self.targets, self.waited])])
        *losses_of_all, users, targets, waited = all_sum(mine).tolist()
        now = time.perf_counter()
        seconds = now - self.last
        record: dict[str, Any] = {
            "step": step,
            "epoch": epoch,
            **{name: total / self.steps for name, total in zip(self.sums, losses_of_all, strict=True)},
            "lr": lr,
            "users_per_s": users / seconds,
            "targets_per_s": targets / seconds,
            "step_ms": 1e3 * seconds / self.steps,
            "data_wait_share": waited / seconds / self.context.world_size,
            "elapsed_s": now - self.began,
        }
        if self.context.device.type == "cuda":
            record["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self.log(record)
        self.loss = record["loss"]
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {record['loss']:.4f}, {record['users_per_s']:.0f} users/s")
            if self.lines and now - self.printed > LINE_EVERY:
                self.printed = now
                print(f"{self.stage} {self._line(step, record)}", flush=True)
        self.sums.clear()
        self.users = self.targets = self.steps = 0
        self.waited, self.last = 0.0, now

    def _line(self, step: int, record: dict[str, Any]) -> str:
        left = (self.total_steps - step) * record["step_ms"] / 1e3
        eta = datetime.timedelta(seconds=round(left))
        speed = f"{record['users_per_s']:.0f} users/s"
        return f"step {step}/{self.total_steps}: loss {record['loss']:.4f}, {speed}, ETA {eta}"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside (validation, checkpoint) out of the throughput."""
        start = time.perf_counter()
        yield
        self.last += time.perf_counter() - start

    def log(self, record: dict[str, Any]) -> None:
        """Append a record to metrics.jsonl and W&B, on rank 0."""
        if self.file is not None:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        if self.wandb is not None:
            self.wandb.log({k: v for k, v in record.items() if k != "step"}, record["step"])

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.file is not None:
            self.file.close()
        if self.wandb is not None:
            self.wandb.close()


def _from_step(path: Path, step: int) -> TextIO:
    """Open for appending what comes after ``step``: records a crashed run wrote beyond its checkpoint are dropped."""
    kept = [record for record in read_lines(path) if record["step"] <= step]
    replace(path, "".join(json.dumps(record) + "\n" for record in kept))
    return path.open("a")
