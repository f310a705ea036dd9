"""What a run may be used with: data it was not trained on, or an earlier part of itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ppr_dist import files, read_config, runs
from ppr_dist.checkpoint.position import checkpoints
from ppr_dist.config import Config
from ppr_dist.data.manifest import LABELS, ItemData, Manifest
from ppr_dist.errors import UserError, warn
from ppr_dist.objectives.labels import is_table
from ppr_dist.runs import RunInfo
from ppr_dist.tuning import TUNING_METHODS


def check_catalogue(
    info: RunInfo, config: Config, run: Path, manifest: Manifest, data: Path, *, otherwise: str = ""
) -> None:
    """Raise :class:`UserError` where ``data`` numbers items otherwise than the run's data, or attribute values or
    labels that the run uses. Anything else (clicks, users, splits, the files' bytes) may differ.

    ``otherwise``: what may be done with another catalogue.
    """
    now = runs.describe(info.stage, info.method, data, manifest)
    again = "pre-train again" if info.stage == "pretrain" else "pre-train and tune again"
    prepared_again = f"{data} was prepared again since {run} was trained on it, with other"
    if info.catalogue["items"] != now.catalogue["items"]:
        if now.data == info.data:
            raise UserError(f"{prepared_again} items ({info.items} then, {now.items} now): {again}")
        raise UserError(
            f"{run} was trained on another catalogue ({info.items} items, data {info.data}) than {data} "
            f"({now.items} items){otherwise}"
        )
    for name in runs.item_data_names(config, info.catalogue_for(config)):
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
    now = runs.describe(info.stage, info.method, data, manifest)
    read = runs.item_data_names(config, info.catalogue_for(config))
    for name in read:
        then, found = info.item_data[name], now.item_data.get(name)
        if found is None or (then.kind, then.columns, then.values) != (found.kind, found.columns, found.values):
            raise UserError(f"{run} reads {name!r} of items ({_said(then)}), and {data} has {_said(found)}")
        if then.values:
            warn(f"{data} numbers its {name} for itself: what {run} learned of one may be another's there")
    for name in runs.item_data_names(config, now.catalogue_for(config)):
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
    now = runs.describe(info.stage, info.method, data, manifest)
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
        before, of = runs.read(run)
        then, now = (each.method or each.stage for each in (of, info))
        if then != now:
            raise UserError(f"{run} is a run of {then}; it cannot be resumed as {now}")
        if of.new_catalogue != info.new_catalogue:
            began = "with" if of.new_catalogue else "without"
            raise UserError(f"{run} was begun {began} --new-catalogue; resume it {began} it")
        if before.train.refit != config.train.refit:
            said = f"train.refit {str(before.train.refit).lower()}"
            raise UserError(f"{run} has {said}; resume it with --{said}")
        for section in read_config.model_sections(before):
            has, asked = (read_config.section(each, section) for each in (before, config))
            for name, value in dataclasses.asdict(has).items():
                if name != "dropout" and value != getattr(asked, name):
                    raise UserError(f"{run} has {section}.{name} {value}; resume it with --{section}.{name} {value}")
        predicts, to_predict = (_predicted(each, its) for each, its in ((of, before), (info, config)))
        if predicts != to_predict:
            raise UserError(f"{run} predicts {predicts}; it cannot be resumed to predict {to_predict}")
        files.read_lines(run / "metrics.jsonl")


def _predicted(info: RunInfo, config: Config) -> str:
    catalogue = info.catalogue_for(config)
    spaces = [f"{LABELS} {space.name!r}{' (a table)' * is_table(space, config)}" for space in catalogue.labels]
    return ", ".join([*sorted(catalogue.hidden), *spaces]) or "no attribute"


def check_label_tables(info: RunInfo, pretrained: Config, run: Path, config: Config) -> None:
    """Raise :class:`UserError` where a label space that ``run`` predicts is a table there and a layer here, or the
    reverse: what was learned of it would be lost.
    """
    goes_on = {space.name for space in info.catalogue_for(config).labels}
    for space in info.catalogue_for(pretrained).labels:
        there, here = (is_table(space, each) for each in (pretrained, config))
        if space.name in goes_on and there != here:
            kind = "a table" if there else "a layer"
            limit = read_config.section(pretrained, LABELS).dense_up_to
            raise UserError(f"{run} has {LABELS} {space.name!r} in {kind}: tune it with labels.dense_up_to {limit}")
