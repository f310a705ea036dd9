"""A run's folder: what was asked for, with what data, and where its files lie.

``RUN/config.yaml`` (all sections, usable as --config), ``run.json`` (stage and data), ``plan.json``, ``metrics.jsonl``,
``checkpoints/``.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import yaml

from ppr_dist import files, read_config
from ppr_dist.catalogue import Catalogue
from ppr_dist.checkpoint.base_checkpoint import BaseCheckpoint
from ppr_dist.config import Config
from ppr_dist.data.manifest import ItemData, LabelSpace, Manifest
from ppr_dist.data.remote import address_of, present
from ppr_dist.errors import UserError
from ppr_dist.model.item_encoders import ITEM_ENCODERS
from ppr_dist.objectives import OBJECTIVES
from ppr_dist.objectives.labels import is_table
from ppr_dist.parallel.tables import TableSizes
from ppr_dist.tracking.wandb_run import WANDB_ID
from ppr_dist.tuning import TUNING_METHODS

COLD_USERS = {"cold_threshold": 10, "simulate_cold": 0.0, "tune_test_fraction": 0.2, "tune_test_fold": 1}
"""By name: what data is taken for that was prepared before ``prepare`` had the option."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInfo:
    stage: Literal["pretrain", "tune"]
    method: str | None
    """How a tuned model was tuned; None for a pre-trained one."""
    data: str
    """Absolute path of the prepared data."""
    fingerprint: str
    """Fingerprint of that data."""
    catalogue: dict[str, str]
    """SHA-256 of the item ids in index order ("items") and of each attribute's values (its name)."""
    items: int
    attributes: dict[str, int]
    """Cardinality by attribute."""
    item_data: dict[str, ItemData] = dataclasses.field(default_factory=dict)
    """What the data knows of each item, by name."""
    labels: tuple[LabelSpace, ...] = ()
    """The data's label spaces."""
    user_vectors: int = 0
    """Numbers of each user's vector; 0: users have none."""
    init: str | None = None
    """The run this one started from."""
    splits: list[str] = dataclasses.field(default_factory=list)
    """Whose users it trains on; of runs of before: none, which means the stage's own."""
    cold_users: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The options of ``prepare`` that decide whose clicks training does not see (:data:`COLD_USERS`)."""
    seeds: dict[str, int] = dataclasses.field(default_factory=dict)
    """``train.seed`` of this run and of the one it started from, by stage."""
    base: BaseCheckpoint | None = None
    """What its checkpoints stand on, where they hold only what was tuned."""
    trained_on_validation: bool = False
    """Whether training saw the warm users' last click but one, the target of validation."""
    new_catalogue: bool = False
    """Whether its data is another catalogue than that of ``init``, of which it then has no table."""

    def catalogue_for(self, config: Config) -> Catalogue:
        """The sizes of its data, and what of it a model of ``config`` may not see."""
        return catalogue_for(config, self.items, self.attributes, self.item_data, self.labels, self.user_vectors)

    @property
    def uses_profiles(self) -> bool:
        return self.method is not None and bool(self.attributes or self.user_vectors)

    def table_sizes(self, config: Config) -> TableSizes:
        return table_sizes(config, self.catalogue_for(config), self.method)


def catalogue_for(
    config: Config,
    items: int,
    attributes: dict[str, int],
    item_data: dict[str, ItemData] | None = None,
    labels: tuple[LabelSpace, ...] = (),
    user_vectors: int = 0,
) -> Catalogue:
    """What a model of ``config`` may see of ``items``, ``attributes`` (cardinality by name) and numbers of
    ``user_vectors``, and is to predict."""
    objectives = [OBJECTIVES[name] for name in config.train.objectives]
    hidden = frozenset(name for objective in objectives for name in objective.hides(config, attributes))
    spaces = tuple(space for objective in objectives for space in objective.label_spaces(config, labels))
    return Catalogue(
        items=items,
        attributes=attributes,
        item_data=item_data or {},
        hidden=hidden,
        labels=spaces,
        known_labels=tuple(space for space in labels if space not in spaces),
        user_vectors=user_vectors,
    )


def table_sizes(config: Config, catalogue: Catalogue, method: str | None) -> TableSizes:
    """The tables of a model that is tuned by ``method``, or pre-trained."""
    return TableSizes(
        items=catalogue.items,
        dim=config.model.dim,
        attributes=catalogue.profile,
        columns=tuple(n for n, name in enumerate(catalogue.attributes) if name in catalogue.profile),
        attribute_dim=config.profiles.attribute_dim,
        uses=TUNING_METHODS[method].profile_uses if method and catalogue.profile else (),
        reference_items=TUNING_METHODS[method].reference_items(config, catalogue) if method else (),
        ids=any(ITEM_ENCODERS[name].reads_ids for name in config.model.item_encoders),
        item_data={name: catalogue.item_data[name].columns for name in item_data_names(config, catalogue)},
        labels={space.name: space.size for space in catalogue.labels if is_table(space, config)},
    )


def item_data_names(config: Config, catalogue: Catalogue) -> list[str]:
    """What the item encoders of ``config`` read, each name once."""
    return list(dict.fromkeys(n for names in read_config.item_data_read(config, catalogue).values() for n in names))


def describe(stage: Literal["pretrain", "tune"], method: str | None, data: Path, manifest: Manifest) -> RunInfo:
    return RunInfo(
        stage=stage,
        method=method,
        data=address_of(data) or str(data.resolve()),
        fingerprint=manifest.fingerprint,
        catalogue={"items": manifest.tables["items.parquet"]} | {a.name: a.values for a in manifest.attributes},
        items=manifest.items,
        attributes={a.name: a.cardinality for a in manifest.attributes},
        item_data=manifest.item_data,
        labels=manifest.labels,
        user_vectors=manifest.user_vectors.columns if manifest.user_vectors else 0,
        cold_users={name: manifest.settings.get(name, usual) for name, usual in COLD_USERS.items()},
    )


def create(run: Path, config: Config, info: RunInfo, plan: dict[str, Any], *, resume: bool) -> None:
    """Write the run's description."""
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    if not resume:
        for of_another in ("metrics.jsonl", WANDB_ID):
            (run / of_another).unlink(missing_ok=True)
    body = read_config.chosen_sections(config, info.method)
    body["tables"]["cluster"] = str(config.tables.cluster) if config.tables.cluster else None
    files.replace(run / "config.yaml", yaml.safe_dump(body, sort_keys=False))
    files.replace(run / "run.json", json.dumps(dataclasses.asdict(info), indent=1) + "\n")
    files.replace(run / "plan.json", json.dumps(plan, indent=1) + "\n")


def read(run: Path) -> tuple[Config, RunInfo]:
    """Read a run's configuration and description; raise :class:`UserError` where ``run`` is not one."""
    try:
        body = json.loads((run / "run.json").read_text())
        if "stage" not in body:
            raise UserError(f"{run}: written by an earlier version of ppr_dist; train again")
        body["item_data"] = {name: ItemData(**data) for name, data in body.get("item_data", {}).items()}
        body["labels"] = tuple(LabelSpace(**space) for space in body.get("labels", ()))
        body["base"] = BaseCheckpoint(**body["base"]) if body.get("base") else None
        info = RunInfo(**body)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{run}: not a run (no run.json)") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{run / 'run.json'}: cannot be read ({error})") from error
    try:
        return read_config.read(run / "config.yaml"), info
    except UserError as error:
        raise UserError(f"{error} (where another version of ppr_dist wrote it: train again)") from error


def item_counts(data: Path, column: Literal["train_count", "tune_count"]) -> Any:
    """Training clicks of each item in pre-training or tuning, int64 [N]."""
    # Absolute: for pyarrow a relative "shop:v2" is a URL.
    return pq.read_table(present(data / "items.parquet").absolute(), columns=[column]).column(column).to_numpy()
