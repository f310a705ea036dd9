"""What every experiment works with: logs and what is told of their items, prepared data, and how much is run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import jobs
from benchmarks.ml_1m import ROOT
from benchmarks.transfer import content
from benchmarks.transfer.training import Training

TUNE = ROOT / "configs" / "transfer" / "tune.yaml"
NEXT = {"task": "next-item", "protocol": "full"}
SYNTHETIC = {"users": 3_000, "items": 1_000}
SYNTHETIC_QUICK = {"users": 1_000, "items": 300}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    logs: Path | None
    """Holds ml-1m, beauty and toys; None: the synthetic catalogue alone."""
    work: Path
    workers: int
    quick: bool
    """As small as can be: what it says means nothing."""
    seeds: int
    epochs: int
    """Of pre-training."""
    trials: int
    """Of each tuning method, in ``methods`` and ``cross-domain``."""
    folds: tuple[int, ...]
    """Of 5, in ``methods``."""

    users: int | None
    """Of a log at most, drawn by a seed; None: all."""
    names: tuple[str, ...]
    """Of ml-1m and synthetic, which have users' profiles and items' content."""

    def run(self, trainings: Sequence[jobs.Job], what: str) -> None:
        jobs.run(trainings, what, self.workers)

    def log(self, name: str) -> Path:
        """The folder of a log; the synthetic one is made."""
        if name != "synthetic":
            assert self.logs
            if name == "ml-1m" and self.users:  # of the others each experiment takes what it says
                return some_users(self.logs / name, self.work / "logs" / f"{name}-{self.users}", self.users)
            return self.logs / name
        from ppr_dist.data.synthetic.catalogue import generate

        folder = self.work / "logs" / name
        if not folder.is_dir():
            generate(self.synthetic(), folder)
        return folder

    def synthetic(self) -> Any:
        from ppr_dist.data.synthetic.catalogue import SyntheticConfig

        return SyntheticConfig(**(SYNTHETIC_QUICK if self.quick else SYNTHETIC))

    def content(self, name: str) -> dict[str, Any]:
        """Options of ``prepare``: features, codes and texts of a log's items (benchmarks/transfer/content.py)."""
        folder = self.work / "content" / name
        if not (folder / "features.parquet").is_file():
            if name == "synthetic":
                content.invented(self.synthetic(), folder)
            else:
                make = content.movies if name == "ml-1m" else content.products
                make(self.log(name) / "items.parquet", folder)
        return {
            "item_features": {"text": folder / "features.parquet"},
            "items": folder / "texts.parquet",
            "code_levels": 3,
            "code_values": 32 if name == "synthetic" else 64,
        }

    def prepared(self, name: str, of: str, **options: Any) -> Path:
        """Data ``name`` of the log ``of``, prepared with ``options`` unless it is there, by the same."""
        out = self.work / "data" / name
        said = json.dumps(options, default=str, sort_keys=True)
        kept = out.with_suffix(".options")
        if out.is_dir() and kept.is_file() and kept.read_text() == said:
            return out
        from ppr_dist.library import prepare

        shutil.rmtree(out, ignore_errors=True)
        prepare(**{"interactions": self.log(of) / "interactions.parquet", "out": out, **options})
        kept.write_text(said)
        return out

    def pretraining(self, folder: str, data: Path, seed: int, *more: Mapping[str, Any], **job: Any) -> Training:
        """SASRec of width 64, two layers and 20 clicks: small enough for one core."""
        options = {
            "config": ROOT / "configs" / "transfer" / "pretrain.yaml",
            "data": data,
            "train": {"epochs": self.epochs, "seed": seed},
        }
        return Training(
            folder=self.work / "runs" / folder / f"seed-{seed}",
            command="pretrain",
            options=jobs.merged(options, *more),
            **job,
        )


def some_users(log: Path, out: Path, users: int) -> Path:
    """Copy a log to ``out`` with that many of its users, drawn by a seed."""
    if not out.is_dir():
        out.mkdir(parents=True)
        clicks = pq.read_table(log / "interactions.parquet")
        everyone = np.unique(clicks["user_id"].to_numpy())
        chosen = pa.array(np.random.default_rng(0).permutation(everyone)[:users])
        for path in log.glob("*.parquet"):
            table = pq.read_table(path)
            if "user_id" in table.column_names:
                table = table.filter(pc.is_in(table["user_id"], chosen))
            pq.write_table(table, out / path.name)
    return out


Result = tuple[list[str], dict[str, Any]]
Experiment = Callable[[Setting], Result]
