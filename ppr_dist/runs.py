"""A run's folder: what was asked for, with what data, and where its parts lie.

``RUN/config.yaml`` (all sections, usable as --config), ``run.json`` (job and data), ``plan.json``, ``metrics.jsonl``,
``checkpoints/``.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import yaml

from ppr_dist import config as configuration
from ppr_dist.checkpoint import checkpoints
from ppr_dist.config import Config
from ppr_dist.data.manifest import Manifest
from ppr_dist.errors import UserError
from ppr_dist.parallel.sparse import TableSizes

Method = Literal["ppr-light", "ppr-full", "fine-tune"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInfo:
    job: Literal["pretrain", "tune"]
    method: Method | None
    """How a tuned model was tuned; None for a pre-trained one."""
    data: str
    """Absolute path of the prepared data."""
    fingerprint: str
    """Fingerprint of that data."""
    catalogue: dict[str, str]
    """Checksums of the vocabularies; a model fits only data with the same ones."""
    items: int
    attributes: dict[str, int]
    """Cardinality by attribute."""
    init: str | None = None
    """The run this one started from."""

    @property
    def with_prompt(self) -> bool:
        return self.method in ("ppr-light", "ppr-full")

    @property
    def with_tower(self) -> bool:
        return self.method is not None

    def table_sizes(self, config: Config) -> TableSizes:
        return TableSizes(
            items=self.items,
            dim=config.model.dim,
            attributes=self.attributes,
            attribute_dim=config.prompt.attribute_dim,
            with_prompt=self.with_prompt,
            with_tower=self.with_tower and bool(self.attributes),
        )


def describe(job: Literal["pretrain", "tune"], method: Method | None, data: Path, manifest: Manifest) -> RunInfo:
    return RunInfo(
        job=job,
        method=method,
        data=str(data.resolve()),
        fingerprint=manifest.fingerprint,
        catalogue=vocabularies(manifest),
        items=manifest.items,
        attributes={a.name: a.cardinality for a in manifest.attributes},
    )


def vocabularies(manifest: Manifest) -> dict[str, str]:
    return {name: manifest.tables[name] for name in ("items.parquet", "attributes.parquet")}


def check_catalogue(info: RunInfo, run: Path, manifest: Manifest, data: Path) -> None:
    """Raise :class:`UserError` where ``data`` numbers items or attribute values otherwise than the run's data."""
    if info.catalogue != vocabularies(manifest):
        raise UserError(
            f"{run} was trained on another catalogue ({info.items} items, data {info.data}) than {data} "
            f"({manifest.items} items)"
        )


def create(run: Path, config: Config, info: RunInfo, plan: dict[str, Any], *, resume: bool) -> None:
    """Write the run's description; raise :class:`UserError` where the folder holds a run and ``resume`` is off.

    Resumed with positions counted otherwise, a model would fit and be wrong: that is refused too.
    """
    if not resume:
        if checkpoints(run):
            raise UserError(f"{run} already holds a run; pass --resume to go on with it, or choose another folder")
        if run.is_file():
            raise UserError(f"{run} is a file; --run-dir takes a folder")
        (run / "metrics.jsonl").unlink(missing_ok=True)
    elif checkpoints(run) and (positions := _config(run).model.positions) != config.model.positions:
        raise UserError(f"{run} counts positions from the {positions}; resume it with --model.positions {positions}")
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    body = dataclasses.asdict(config)
    body["tables"]["sharding"] = str(config.tables.sharding) if config.tables.sharding else None
    (run / "config.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    (run / "run.json").write_text(json.dumps(dataclasses.asdict(info), indent=1) + "\n")
    (run / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")


def read(run: Path) -> tuple[Config, RunInfo]:
    """Read a run's configuration and description; raise :class:`UserError` where ``run`` is not one."""
    try:
        info = RunInfo(**json.loads((run / "run.json").read_text()))
    except FileNotFoundError as error:
        raise UserError(f"{run}: not a run (no run.json)") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{run / 'run.json'}: cannot be read ({error})") from error
    return _config(run), info


def _config(run: Path) -> Config:
    config = configuration.read(run / "config.yaml")
    if "positions" in (yaml.safe_load((run / "config.yaml").read_text()).get("model") or {}):
        return config
    # Written before there was a choice, when positions were counted back from the last interaction.
    return dataclasses.replace(config, model=dataclasses.replace(config.model, positions="last"))


def item_counts(data: Path, column: Literal["train_count", "tune_count"]) -> Any:
    """Training clicks of each item in pre-training or tuning, int64 [N]."""
    # Absolute: for pyarrow a relative "shop:v2" is a URL.
    return pq.read_table((data / "items.parquet").absolute(), columns=[column]).column(column).to_numpy()
