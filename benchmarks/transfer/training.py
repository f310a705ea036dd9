"""One training and what is asked of it, a job of :mod:`benchmarks.jobs`; a training may start from another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import jobs
from benchmarks.jobs import measured, merged, ranks_of, trained

QUIET = {"logging": {"progress": False, "parts_every": 0}, "train": {"dry_step": False}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(jobs.Job):
    command: Literal["pretrain", "tune"]
    options: Mapping[str, Any]
    """Of the command, but for ``run_dir`` and ``init``."""
    start: Training | None = None
    """What ``tune`` starts from; its checkpoint must be kept."""
    asks: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """By name: options of ``evaluate``; ranks go to ranks.npz under that name."""
    keep: bool = False
    """Whether the checkpoint stays: others start from it."""

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def asked(self) -> dict[str, Any]:
        body: dict[str, Any] = {"command": self.command, "options": self.options, "asks": self.asks}
        if self.start:
            body["start"] = self.start.digest
        return dict(json.loads(json.dumps(body, default=str)))

    @property
    def digest(self) -> str:
        """Of what is asked, and what it starts from."""
        return hashlib.sha256(json.dumps(self.asked).encode()).hexdigest()[:16]

    def work(self) -> dict[str, Any]:
        from ppr_dist import library

        options = merged(QUIET, self.options, {"run_dir": self.run})
        with measured() as cost:
            if self.start:
                library.tune(init=self.start.run, **options)
            else:
                library.pretrain(**options)
        result = cost | trained(self.run, self.folder / "log.txt") | {"lines": {}}
        kept: dict[str, Any] = {}
        for name, asked in self.asks.items():
            ranked = asked["task"] != "labels"
            out = {"predictions": self.folder / f"{name}.predictions"} if ranked else {}
            (line,) = library.evaluate(run_dir=self.run, progress=False, **{**asked, "task": [asked["task"]]}, **out)
            result["lines"][name] = line
            if ranked:
                kept |= {f"{name} {key}": value for key, value in ranks_of(out["predictions"]).items()}
        if kept:
            np.savez(self.folder / "ranks.npz", **kept)
        if not self.keep:
            shutil.rmtree(self.run / "checkpoints")
        return result

    def ranks(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        """What was asked under ``name``: rank, candidates, user_id, position of each instance."""
        with np.load(self.folder / "ranks.npz") as kept:
            return {key.removeprefix(f"{name} "): kept[key] for key in kept.files if key.startswith(f"{name} ")}
