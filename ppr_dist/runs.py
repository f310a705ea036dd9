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
from ppr_dist.checkpoint.position import checkpoints
from ppr_dist.config import Config
from ppr_dist.data.manifest import LABELS, ItemData, LabelSpace, Manifest
from ppr_dist.data.remote import address_of, present
from ppr_dist.errors import UserError, warn
from ppr_dist.model.item_encoders import ITEM_ENCODERS
from ppr_dist.objectives import OBJECTIVES
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
        item_data={name: catalogue.item_data[name].columns for name in _item_data_names(config, catalogue)},
    )


def _item_data_names(config: Config, catalogue: Catalogue) -> list[str]:
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


def check_catalogue(
    info: RunInfo, config: Config, run: Path, manifest: Manifest, data: Path, *, otherwise: str = ""
) -> None:
    """Raise :class:`UserError` where ``data`` numbers items otherwise than the run's data, or attribute values or
    labels that the run uses. Anything else (clicks, users, splits, the files' bytes) may differ.

    ``otherwise``: what may be done with another catalogue.
    """
    now = describe(info.stage, info.method, data, manifest)
    again = "pre-train again" if info.stage == "pretrain" else "pre-train and tune again"
    prepared_again = f"{data} was prepared again since {run} was trained on it, with other"
    if info.catalogue["items"] != now.catalogue["items"]:
        if now.data == info.data:
            raise UserError(f"{prepared_again} items ({info.items} then, {now.items} now): {again}")
        raise UserError(
            f"{run} was trained on another catalogue ({info.items} items, data {info.data}) than {data} "
            f"({now.items} items){otherwise}"
        )
    for name in _item_data_names(config, info.catalogue_for(config)):
        if manifest.item_data.get(name) != info.item_data[name]:
            raise UserError(f"{run} was trained with other item data {name!r} than {data} has: {again}")
    there = {space.name: space.values for space in manifest.labels}
    catalogue = info.catalogue_for(config)
    read = TUNING_METHODS[info.method].reads_labels(config, catalogue) if info.method else ()
    for space in (*catalogue.labels, *read):
        if there.get(space.name) != space.values:
            raise UserError(f"{run} was trained with other labels {space.name!r} than {data} has: {again}")
    if info.method and info.user_vectors != now.user_vectors:
        then, found = (f"of {n} numbers" if n else "none" for n in (info.user_vectors, now.user_vectors))
        raise UserError(f"{run} was tuned with vectors of users {then}, but {data} has {found}: tune again")
    used = info.attributes if info.uses_profiles else sorted(info.catalogue_for(config).hidden)
    if not used:
        return
    did, again = ("tuned", "tune again") if info.method else ("pre-trained", again)
    if list(info.attributes) != list(now.attributes):
        then, found = (", ".join(names) or "none" for names in (info.attributes, now.attributes))
        raise UserError(f"{run} was {did} with attributes {then}, but {data} has {found}: {again}")
    for name in used:
        if info.catalogue[name] != now.catalogue[name]:
            raise UserError(
                f"{prepared_again} values of attribute {name!r}: {again}"
                if now.data == info.data
                else f"{run} was {did} with other values of attribute {name!r} (data {info.data}) than {data} has"
            )


def check_new_catalogue(info: RunInfo, config: Config, run: Path, manifest: Manifest, data: Path) -> None:
    """Raise :class:`UserError` where the run's item encoders cannot read what ``data`` knows of its items: of the same
    names it must have as many numbers, codes and words. Warns where these are numbered by each data set for itself.
    """
    now = describe(info.stage, info.method, data, manifest)
    read = _item_data_names(config, info.catalogue_for(config))
    for name in read:
        then, found = info.item_data[name], now.item_data.get(name)
        if found is None or (then.kind, then.columns, then.values) != (found.kind, found.columns, found.values):
            raise UserError(f"{run} reads {name!r} of items ({_said(then)}), and {data} has {_said(found)}")
        if then.values:
            warn(f"{data} numbers its {name} for itself: what {run} learned of one may be another's there")
    for name in _item_data_names(config, now.catalogue_for(config)):
        if name not in read:
            raise UserError(f"{data} has item features {name!r}, which {run} does not know: prepare it without them")


def _said(data: ItemData | None) -> str:
    if data is None:
        return "none"
    return f"{data.columns} numbers" + (f", {data.values} values" if data.values else "")


def check_held_out(info: RunInfo, run: Path, manifest: Manifest, data: Path) -> None:
    """Raise :class:`UserError` where training may have seen clicks that ``data`` holds out: its cold users are others.

    Another tune/test share moves users that pre-training on warm users never sees, so such a run fits it as it is; one
    that saw tuning users may have seen what are test users now, which is said on stderr.
    """
    now = describe(info.stage, info.method, data, manifest)
    for name in ("cold_threshold", "simulate_cold"):
        then, found = info.cold_users[name], now.cold_users[name]
        if then != found:
            again = f"{data} was prepared again since, and" if now.data == info.data else f"{data}"
            raise UserError(
                f"{again} has other cold users than {run} was trained with ({name} {then} then, {found} now), whose "
                "clicks it may have seen: pre-train again"
            )
    if info.stage != "tune" and "tune-train" not in info.splits:
        return
    did = "tuned" if info.method else "pre-trained"
    then, found = (users.get("tune_test_fold", 1) for users in (info.cold_users, now.cold_users))
    if then != found:
        raise UserError(f"{run} was {did} on the users that {data} tests (tune_test_fold {then} then, {found} now)")
    then, found = info.cold_users["tune_test_fraction"], now.cold_users["tune_test_fraction"]
    if found > then:
        warn(
            f"{run} was {did} with tune_test_fraction {then}, {data} has {found}: it may have been "
            f"{did} on users that are for testing now"
        )


def check_new(run: Path, config: Config, info: RunInfo, *, resume: bool) -> None:
    """Raise :class:`UserError` where ``run`` cannot be written, or holds a run and ``resume`` is off; writes nothing.

    Resumed by another method, with another number of heads or to predict another attribute, a checkpoint may fit and
    be wrong: refused too.
    """
    files.check_writable(run)
    if checkpoints(run):
        if not resume:
            raise UserError(f"{run} already holds a run; pass --resume to go on with it, or choose another folder")
        before, of = read(run)
        then, now = (each.method or each.stage for each in (of, info))
        if then != now:
            raise UserError(f"{run} is a run of {then}; it cannot be resumed as {now}")
        if of.new_catalogue != info.new_catalogue:
            began = "with" if of.new_catalogue else "without"
            raise UserError(f"{run} was begun {began} --new-catalogue; resume it {began} it")
        for section in read_config.model_sections(before):
            has, asked = (read_config.section(each, section) for each in (before, config))
            for name, value in dataclasses.asdict(has).items():
                if name != "dropout" and value != getattr(asked, name):
                    raise UserError(f"{run} has {section}.{name} {value}; resume it with --{section}.{name} {value}")
        predicts, to_predict = (_predicted(each.catalogue_for(its)) for each, its in ((of, before), (info, config)))
        if predicts != to_predict:
            raise UserError(f"{run} predicts {predicts}; it cannot be resumed to predict {to_predict}")
        files.read_lines(run / "metrics.jsonl")


def _predicted(catalogue: Catalogue) -> str:
    names = [*sorted(catalogue.hidden), *(f"{LABELS} {space.name!r}" for space in catalogue.labels)]
    return ", ".join(names) or "no attribute"


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
