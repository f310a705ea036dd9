"""``--profile``: a torch profiler trace of a few steady steps of each rank, with the parts of a step named in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ppr_dist.errors import warn
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.tracking.step_parts import StepParts

STEADY_FROM, WARM_UP, STEPS = 10, 2, 5
"""Steps before the profiler is on, steps that it warms up for, and steps that it records."""
OPERATORS = 40
"""Rows of the table of operators."""
MEMORY_EVENTS = 100_000
"""Allocations that a memory snapshot holds at most."""


class _NamedParts(StepParts):
    """Gives the parts of a step their names in a trace, and measures nothing."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        with torch.profiler.record_function(f"part: {name}"):
            yield

    def _begin(self, name: str) -> None:
        pass


class Profile:
    """Files in ``RUN/profile``: ``rank-N.json.gz`` (chrome://tracing, Perfetto), ``rank-N-operators.txt``, and on CUDA
    ``rank-N-memory.pickle`` (pytorch.org/memory_viz).
    """

    def __init__(self, run: Path, context: DistributedContext, parallel: Parallel, steps: int) -> None:
        """``steps``: how many this process is to train; of few, the last ones are recorded."""
        self.folder, self.context = run / "profile", context
        self.first = max(0, min(STEADY_FROM, steps - WARM_UP - STEPS))
        self.parts = _NamedParts(parallel)
        self.done = 0
        self.written = False
        self.profiler: Any = None
        self.step()

    @property
    def running(self) -> bool:
        return self.profiler is not None

    def step(self) -> None:
        """To be called once before the first step, and after each."""
        if self.running:
            self.profiler.step()
            if self.done == self.first + WARM_UP + STEPS:
                self.close()
        elif self.done == self.first:
            self._start()
        self.done += 1

    def close(self) -> None:
        """Write what there is."""
        if not self.running:
            return
        profiler, self.profiler = self.profiler, None
        profiler.stop()
        self.parts.stop()
        if self.cuda:
            torch.cuda.memory._record_memory_history(enabled=None)
        if self.context.main:
            if self.written:
                print(f"profile: {self.folder}", flush=True)
            else:
                warn(f"--profile: nothing to write of so few steps; it takes {WARM_UP + 1} at least")

    @property
    def cuda(self) -> bool:
        return self.context.device.type == "cuda"

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.cuda:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS)
        self.parts.start()
        self.profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=0, warmup=WARM_UP, active=STEPS, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )
        self.profiler.start()

    def _write(self, profiler: Any) -> None:
        if profiler.step_num <= WARM_UP:
            return
        self.written = True
        name = self.folder / f"rank-{self.context.rank}"
        profiler.export_chrome_trace(f"{name}.json.gz")
        order = f"self_{self.context.device.type}_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=OPERATORS)
        Path(f"{name}-operators.txt").write_text(table)
        if self.cuda:
            torch.cuda.memory._dump_snapshot(f"{name}-memory.pickle")
