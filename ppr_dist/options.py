"""Strict options: flags and YAML into frozen dataclasses; an unknown key or a wrong type is one line that names it."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, set_parsing_settings

from ppr_dist.errors import UserError

MISSING = "the following arguments are required: "


class StrictParser(ArgumentParser):
    """A parser whose errors are :class:`UserError`, and whose options are written as everywhere else.

    ``--my-option`` for ``--my_option``, a bool as a flag (``--resume``), a list as words (``--task few-shot joint``).
    The docstring under a field is the help of its option.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        said = " ".join(str(message).split()).replace("typing.", "")
        # As options are written, not as jsonargparse calls them.
        said = re.sub(r'Parser key "([\w.]+)"', lambda key: _option(key[1]), said)
        if (names := said.removeprefix(MISSING)) != said:
            said = MISSING + ", ".join(map(_option, names.split(", ")))
        raise UserError(said) from ex

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        args = sys.argv[1:] if args is None else args
        return super().parse_args(self._with_values([self._underscored(arg) for arg in args]), **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Name the file in whatever is wrong with its content."""
        try:
            return super().parse_path(path, *args, **kwargs)
        except UserError as error:
            said = str(error).replace(' in "<unicode string>"', "")
            raise UserError(f"{path}: {said}") from error

    def _with_values(self, words: list[str]) -> list[str]:
        """Write a flag as ``--flag true`` and the words of a list as one JSON list, as jsonargparse reads them."""
        written: list[str] = []
        while words:
            option, *rest = words
            values: list[str] = []
            while rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            kind = getattr(self._option_string_actions.get(option), "_typehint", None)
            if kind is bool and not values:
                values = ["true"]
            always = get_origin(kind) is list
            if (always and values and not values[0].startswith("[")) or (len(values) > 1 and _may_be_list(kind)):
                values = [json.dumps(values)]
            written += [option, *values]
            words = rest
        return written

    def _underscored(self, argument: str) -> str:
        if not argument.startswith("--"):
            return argument
        name, equals, value = argument.partition("=")
        known = "--" + name[2:].replace("-", "_")
        if known not in self._option_string_actions:
            # A key of the user's own below an option (--buckets.my-column) keeps its hyphens.
            option, dot, key = name[2:].partition(".")
            known = "--" + option.replace("-", "_") + dot + key
        return known + equals + value

    def build(self, parsed: Any) -> Any:
        """Make the dataclasses of what was parsed; what their own checks raise becomes :class:`UserError`."""
        try:
            return self.instantiate(parsed)
        except (TypeError, ValueError) as error:
            raise UserError(" ".join(str(error).split())) from error


def parse(
    prog: str,
    argv: Sequence[str] | None,
    flat: Sequence[type],
    sections: Mapping[str, type] | None = None,
    description: str | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Read ``--config FILE.yaml`` and flags into dataclasses.

    Args:
        flat: dataclasses whose fields are options of their own (``--out``); their names must differ.
        sections: dataclasses by section name (``--train.lr``).
        description: what --help says of the command; by default the docstring of the module of the first ``flat``.

    Returns the instances of ``flat`` in order, and those of ``sections`` by name. Raises :class:`UserError` naming
    the key where one is unknown, missing or of the wrong type, and what the dataclasses' own checks raise.
    """
    about = description or (sys.modules[flat[0].__module__].__doc__ or "").split("\n\n")[0]
    parser = StrictParser(prog=f"python -m {prog}", description=about.replace("``", ""))
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    for arguments in flat:
        parser.add_class_arguments(arguments, as_group=False)
    _add(parser, sections or {})
    built = parser.build(parser.parse_args(argv))
    own = [arguments(**{f.name: built[f.name] for f in dataclasses.fields(arguments)}) for arguments in flat]
    return own, {name: built[name] for name in sections or {}}


def read_file(path: Path, sections: Mapping[str, type]) -> dict[str, Any]:
    """Read a YAML file of whole sections, as strictly. Raises :class:`UserError` naming file and key."""
    parser = StrictParser()
    _add(parser, sections)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    parsed = parser.parse_path(path)
    try:
        built = parser.build(parsed)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return {name: built[name] for name in sections}


def _option(key: str) -> str:
    return "--" + (key if "." in key else key.replace("_", "-"))  # a section's keys as in YAML


def _may_be_list(kind: Any) -> bool:
    return any(get_origin(each) is list for each in (kind, *get_args(kind)))


def _add(parser: StrictParser, sections: Mapping[str, type]) -> None:
    for name, section in sections.items():
        parser.add_class_arguments(section, name)
