"""Read the configuration: ``--config FILE.yaml`` and dotted overrides (``--train.lr 1e-3``), strictly.

An unknown key, a wrong type or a part that does not exist is an error that names it.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ppr_dist import options
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError, choose
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.model.item_encoders import ITEM_ENCODERS
from ppr_dist.objectives import OBJECTIVES
from ppr_dist.tuning import TUNING_METHODS

Arguments = TypeVar("Arguments")
CHOICES: dict[str, dict[str, Any]] = {
    "method": dict(TUNING_METHODS),
    "model.backbone": dict(BACKBONES),
    "model.item_encoders": dict(ITEM_ENCODERS),
    "train.objectives": dict(OBJECTIVES),
}
"""The parts that an option may name."""


def parse(prog: str, argv: list[str] | None, arguments: type[Arguments]) -> tuple[Arguments, Config]:
    """Parse a command line into the command's own ``arguments`` dataclass and the :class:`Config`.

    Raises :class:`UserError` naming the key where one is unknown, missing or of the wrong type.
    """
    (own,), found = options.parse(prog, argv, [arguments], sections(), parts=CHOICES)
    return own, _config(found)


def parse_tuning(
    prog: str, argv: list[str] | None, arguments: type[Arguments]
) -> tuple[Arguments, Config, dict[str, dict[str, Any]]]:
    """As :func:`parse`, for a run whose model is another run's.

    Returns besides what the command line says of that model, by section: only what was given (:func:`same_model`).
    """
    of_a_model = {"model", *BACKBONES, *ITEM_ENCODERS}
    of_model = {name: _all_optional(section) for name, section in sections().items() if name in of_a_model}
    (own,), found = options.parse(prog, argv, [arguments], sections() | of_model, parts=CHOICES)
    given = {name: dataclasses.asdict(found.pop(name)) for name in of_model}
    asked = {name: {k: v for k, v in values.items() if v is not None} for name, values in given.items()}
    return own, _config(found), asked


def same_model(config: Config, asked: dict[str, dict[str, Any]], pretrained: Config) -> Config:
    """``config`` with the model of ``pretrained``; raise :class:`UserError` where another one is asked for.

    Only ``model.dropout`` may differ.
    """
    model = pretrained.model
    for name in model_sections(pretrained):
        has = section(pretrained, name)
        for key, value in asked[name].items():
            if name == "model" and key == "dropout":
                model = dataclasses.replace(model, dropout=value)
            elif value != getattr(has, key):
                raise UserError(
                    f"{name}.{key} is {value}, but the pre-trained run has {getattr(has, key)}; leave it out"
                )
    parts = dict(config.parts) | {name: pretrained.parts[name] for name in asked if name in pretrained.parts}
    return dataclasses.replace(config, model=model, parts=parts)


def read(path: Path) -> Config:
    """Read a run's ``config.yaml``. Raises :class:`UserError` naming the file and the key."""
    found = options.read_file(path, sections())
    try:
        return _config(found)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


@functools.cache
def part_sections() -> dict[str, type]:
    """The sections of all parts by name."""
    rooms: list[dict[str, Any]] = [dict(BACKBONES), dict(ITEM_ENCODERS), dict(OBJECTIVES), dict(TUNING_METHODS)]
    parts = {name: part for room in rooms for name, part in room.items()}
    found = {section_of(name, part): part.section for name, part in parts.items()}
    return {name: section for name, section in found.items() if section is not None}


def section_of(name: str, part: Any) -> str:
    """The section of the part of that name."""
    return getattr(part, "section_name", None) or name


def sections() -> dict[str, type]:
    """All sections by name."""
    own = {f.name: f.default_factory for f in dataclasses.fields(Config) if f.name != "parts"}
    return own | part_sections()  # type: ignore[return-value]


def section(config: Config, name: str) -> Any:
    """A section of ``config`` by name; None of a part without settings."""
    return config.part(name, part_sections()[name]) if name in part_sections() else getattr(config, name, None)


def model_sections(config: Config) -> list[str]:
    """Those that say what the model of ``config`` is; sections of backbones it did not choose say nothing."""
    return [n for n in ("model", config.model.backbone, *config.model.item_encoders) if n in sections()]


def chosen_sections(config: Config, method: str | None) -> dict[str, dict[str, Any]]:
    """All settings that a run used, by section: those of parts that it did not choose are left out."""
    names = [config.model.backbone, *config.model.item_encoders, *config.train.objectives]
    if method is not None:
        tuning = TUNING_METHODS[method]
        names += [section_of(method, tuning), *tuning.objectives]
    own = [field.name for field in dataclasses.fields(config) if field.name != "parts"]
    used = dict.fromkeys([*own, *(name for name in names if name in part_sections())])
    return {name: dataclasses.asdict(section(config, name)) for name in used}


def _config(found: dict[str, Any]) -> Config:
    parts = {name: found.pop(name) for name in part_sections() if name in found}
    config = Config(**found, parts=parts)
    choose("model.backbone", config.model.backbone, BACKBONES)
    lists: list[tuple[str, list[str], dict[str, Any]]] = [
        ("model.item_encoders", config.model.item_encoders, dict(ITEM_ENCODERS)),
        ("train.objectives", config.train.objectives, dict(OBJECTIVES)),
    ]
    for option, names, parts_of in lists:
        for name in names:
            choose(option, name, parts_of)
        if not names or len(set(names)) < len(names):
            raise UserError(f"{option} {names}: name at least one, and each once")
    return config


def item_data_read(config: Config, catalogue: Catalogue) -> dict[str, tuple[str, ...]]:
    """What each item encoder of a run reads of ``catalogue.item_data``.

    Raises :class:`UserError` where the data does not have it.
    """
    encoders = {name: ITEM_ENCODERS[name] for name in config.model.item_encoders}
    return {name: each.reads(section(config, name), catalogue.item_data) for name, each in encoders.items()}


@functools.cache
def _all_optional(section: type) -> type:
    """The section with every field optional, so that what was given can be told from what was not."""
    title = (section.__doc__ or "").split("\n")[0].removesuffix(".")
    types = get_type_hints(section)
    fields = [(f.name, types[f.name] | None, dataclasses.field(default=None)) for f in dataclasses.fields(section)]
    return dataclasses.make_dataclass(
        section.__name__,
        fields,
        frozen=True,
        kw_only=True,
        namespace={"__doc__": f"{title}, the pre-trained run's"},
    )
