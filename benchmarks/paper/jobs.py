"""One tuning with its evaluation, a job of :mod:`benchmarks.jobs`."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import jobs
from benchmarks.jobs import measured, merged, ranks_of, trained
from benchmarks.paper.methods import Method

PROTOCOLS = ("sampled-99", "full")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(jobs.Job):
    config: Path
    """Settings of tuning from which trials depart."""
    data: Path
    init: Path
    method: Method
    options: dict[str, Any]
    """Of ``tune``, in addition."""
    task: str = "joint"
    """What is asked of the test users."""
    test: bool
    """Whether test users are ranked; a trial only looks at validation users."""

    @property
    def asked(self) -> dict[str, Any]:
        """Options of ``tune``."""
        return merged(self.options, self.method.options)

    def work(self) -> dict[str, Any]:
        from ppr_dist.library import tune

        run, result = self.init, {}
        if self.method.tune:
            run = self.folder / "run"
            options = merged(self.asked, {"logging": {"progress": False, "parts_every": 0}})
            with measured() as cost:
                tune(
                    config=self.config, data=self.data, init=self.init, method=self.method.tune, run_dir=run, **options
                )
            result = cost | trained(run, self.folder / "log.txt")
        if self.test:
            result["lines"] = self._evaluate(run)
        shutil.rmtree(self.folder / "run" / "checkpoints", ignore_errors=True)
        return result

    def _evaluate(self, run: Path) -> list[dict[str, Any]]:
        """Lines of ``evaluate``; the ranks of rankings go to ranks.npz, in the order of (user index, position)."""
        from ppr_dist.library import evaluate

        asked = {"run_dir": run, "data": self.data, "progress": False, **self.method.evaluate}
        if self.task == "attribute":
            return evaluate(task=["attribute"], **asked)
        lines: list[dict[str, Any]] = []
        kept: dict[str, Any] = {}
        for protocol in PROTOCOLS:
            out = self.folder / f"{protocol}.predictions"
            lines += evaluate(task=[self.task], protocol=protocol, predictions=out, **asked)
            found = ranks_of(out)
            kept |= {f"{protocol} {name}": found.pop(name) for name in ("rank", "candidates")} | found
        np.savez(self.folder / "ranks.npz", **kept)
        return lines
