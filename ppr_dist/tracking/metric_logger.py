"""What a run tells while it trains: a record every ``train.log_every`` steps, to metrics.jsonl and beside it."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ppr_dist.config import Config
from ppr_dist.files import read_lines, replace
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.collectives import all_gather
from ppr_dist.parallel.dense import grad_norm
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import PrefetchedBatch
from ppr_dist.step_loss import StepLoss
from ppr_dist.tracking import machine
from ppr_dist.tracking.figures import figures
from ppr_dist.tracking.part_names import PARTS, REST, key
from ppr_dist.tracking.profiler import Profile
from ppr_dist.tracking.step_parts import StepParts
from ppr_dist.tracking.tensorboard_run import TensorBoardRun
from ppr_dist.tracking.wandb_run import WandbRun

Item = TypeVar("Item")

LINE_EVERY = 10.0
"""Seconds between progress lines where there is no terminal."""
FIRST_SAMPLE = 10
"""The step of this process whose parts are timed first: the ones before warm up."""


class Sink(Protocol):
    """Where records go, on rank 0."""

    def log(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class MetricLogger:
    """Collects per-step figures, those of tensors on the device, and reports them from rank 0."""

    def __init__(
        self,
        run: Path,
        config: Config,
        context: DistributedContext,
        parallel: Parallel,
        *,
        total_steps: int,
        first_step: int,
        stage: str,
        flops: Callable[..., float] | None = None,
        profile: Profile | None = None,
    ) -> None:
        """``flops``: :class:`~ppr_dist.parallel.step_cost.StepFlops`, or None where no rate of them is wanted."""
        self.config, self.context, self.parallel = config, context, parallel
        self.flops, self.profile = flops, profile
        self.every, self.stage, self.total_steps = config.train.log_every, stage, total_steps
        self.table_lr = config.tables.lr / config.train.lr
        self.sums: dict[str, Tensor | float] = {}
        """Of the loss and, where there are several, of each objective; on the device, so that nothing waits."""
        self.counts: Counter[str] = Counter()
        """Of what the host knows of the batches (:mod:`ppr_dist.tracking.figures`)."""
        self.waited = 0.0
        self.aside: dict[str, float] = defaultdict(float)
        """Seconds of what stands between steps, by name."""
        self.steps = self.done = 0
        self.parts, self.sampled = StepParts(parallel), 0
        self.began = self.last = time.perf_counter()
        self.bar = None
        self.sinks: list[Sink] = []
        self.loss: float | None = None
        # Where no terminal shows a bar (a batch job's log), a line now and then says the same.
        self.lines, self.printed = config.logging.progress and not sys.stderr.isatty(), self.began
        if context.main:
            told = json.dumps(machine.environment(context.device), indent=1)
            replace(run / "environment.json", told + "\n")
            self.sinks.append(JsonLines(run / "metrics.jsonl", first_step))
            self.bar = tqdm(
                total=total_steps,
                initial=first_step,
                desc=stage,
                unit="step",
                disable=None if config.logging.progress else True,
                dynamic_ncols=True,
            )
            if config.logging.wandb:
                self.sinks.append(WandbRun(run, config, stage))
            if config.logging.tensorboard:
                self.sinks.append(TensorBoardRun(run, first_step))

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass ``batches`` on, counting the time until each comes as waiting for data."""
        start = time.perf_counter()
        for batch in self.parts.data(batches):
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def step(self, step: int, epoch: int, lr: float, loss: StepLoss, fetched: PrefetchedBatch) -> None:
        """Note one step; every ``log_every`` steps report. A collective at those steps."""
        if self.parts.running:
            self.parts.stop()
            self.sampled += 1
        named = {"loss": loss.total}
        if len(loss.parts) > 1:
            named |= {f"loss/{name}": value for name, value in loss.parts.items()}
        norm = grad_norm(self.parallel.engine)
        if norm is not None:
            named["grad_norm"] = torch.as_tensor(norm) / self.context.world_size  # all ranks have the same
        batch, history = fetched.batch, fetched.batch.history
        if self.flops:
            named["squared"] = history.lengths.square().sum()
        for name, value in named.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.double()
        self.counts.update(
            users=len(batch.users),
            targets=len(batch.targets),
            tokens=len(history.items),
            slots=sum(bucket.sequences * bucket.width for bucket in history.buckets),
            asked=batch.asked_items,
            distinct=len(batch.item_ids),
            rows=next(iter(fetched.look_up.items.values())).rows_asked(),
        )
        self.steps += 1
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        if step % self.every == 0:
            self.flush(step, epoch, lr)
        every, next_from_first = self.config.logging.parts_every, self.done + 1 - FIRST_SAMPLE
        if self.profile:
            self.profile.step()
            if self.profile.running:
                return  # what waits for a GPU would be in the trace
        if every and next_from_first >= 0 and next_from_first % every == 0:
            self.parts.start()

    def flush(self, step: int, epoch: int, lr: float) -> None:
        """Report what has gathered since the last report. A collective."""
        if not self.steps:
            return
        now = time.perf_counter()
        by_rank = self._gathered()
        seconds = now - self.last
        record: dict[str, Any] = {"step": step, "epoch": epoch}
        record |= {name: sum(by_rank[name]) / self.steps for name in self.sums if name != "squared"}
        record |= {"lr": lr, "table_lr": lr * self.table_lr}
        record |= figures(by_rank, self.steps, seconds)
        record |= self._flops(by_rank, seconds)
        if self.sampled:
            record |= {
                name: 1e3 * sum(by_rank[name]) / self.context.world_size / self.sampled
                for name in map(key, (*PARTS, REST))
            }
        record |= self._aside()
        record["elapsed_s"] = now - self.began
        self.log(record)
        self.loss = record["loss"]
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {record['loss']:.4f}, {record['users_per_s']:.0f} users/s")
            if self.lines and now - self.printed > LINE_EVERY:
                self.printed = now
                print(f"{self.stage} {self._line(step, record)}", flush=True)
        self.sums.clear()
        self.counts.clear()
        self.steps = self.sampled = 0
        self.waited, self.last = 0.0, now

    def _gathered(self) -> dict[str, list[float]]:
        """Sums, counts, memory and sampled parts by name, each of every rank. A collective."""
        known: dict[str, float] = {**self.counts, "waited": self.waited}
        known |= {"host": machine.resident(), "peak_host": machine.peak_rss()}
        if self.context.device.type == "cuda":
            known |= {"gpu": torch.cuda.memory_allocated(), "peak_gpu": torch.cuda.max_memory_allocated()}
        if self.sampled:
            known |= {key(name): spent for name, spent in self.parts.take().items()}
        sums = torch.stack([torch.as_tensor(value, device=self.context.device) for value in self.sums.values()])
        every = all_gather(torch.cat([sums, sums.new_tensor(list(known.values()))])[None])
        return dict(zip([*self.sums, *known], every.T.tolist(), strict=True))

    def _flops(self, by_rank: dict[str, list[float]], seconds: float) -> dict[str, float | None]:
        """Model FLOP/s of a rank, and their share of the card's peak: None where that is not known."""
        if not self.flops:
            return {}
        ranks, counts = self.context.world_size, ("users", "targets", "tokens", "squared")
        users, targets, clicks, squared = (sum(by_rank[name]) / ranks / self.steps for name in counts)
        of_step = self.flops(world_size=ranks, users=users, targets=targets, clicks=clicks, squared=squared)
        per_s, peak = of_step * self.steps / seconds, machine.peak_flops(self.context.device)
        return {"model_tflops_per_s": per_s / 1e12, "mfu": per_s / peak if peak else None}

    def _aside(self) -> dict[str, float]:
        spent = {f"{name}_s": seconds for name, seconds in self.aside.items()}
        self.aside.clear()
        return spent

    def _line(self, step: int, record: dict[str, Any]) -> str:
        left = (self.total_steps - step) * record["step_ms"] / 1e3
        eta = datetime.timedelta(seconds=round(left))
        speed = f"{record['users_per_s']:.0f} users/s"
        return f"step {step}/{self.total_steps}: loss {record['loss']:.4f}, {speed}, ETA {eta}"

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Leave the time inside out of the throughput; the next record has it as ``what``_s, in seconds."""
        sampling = self.parts.running
        if sampling:
            self.parts.stop()
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self.last += spent
        self.aside[what] += spent
        if sampling:
            self.parts.start()

    def log(self, record: dict[str, Any]) -> None:
        """Give a record to metrics.jsonl and what is beside it, on rank 0."""
        for sink in self.sinks:
            sink.log(record)

    def close(self, step: int | None = None) -> None:
        """Say what the last report could not, as of ``step``, and end."""
        if self.parts.running:
            self.parts.stop()
        if self.profile:
            self.profile.close()
        if step is not None and self.aside:
            self.log({"step": step, **self._aside()})
        if self.bar is not None:
            self.bar.close()
        for sink in self.sinks:
            sink.close()


class JsonLines:
    """metrics.jsonl, from after ``step``: records a crashed run wrote beyond its checkpoint are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [record for record in read_lines(path) if record["step"] <= step]
        replace(path, "".join(json.dumps(record) + "\n" for record in kept))
        self.file = path.open("a")

    def log(self, record: dict[str, Any]) -> None:
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as error:
            error.filename = self.file.name  # which a failed write does not say
            raise

    def close(self) -> None:
        self.file.close()
