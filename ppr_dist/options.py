"""Strict options: flags and YAML into frozen dataclasses; an unknown key or a wrong type is one line that names it."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from argparse import SUPPRESS
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppr_dist.errors import UserError
from ppr_dist.strict_parser import StrictParser, takes, typed


def parse(
    prog: str,
    argv: Sequence[str] | None,
    flat: Sequence[type],
    sections: Mapping[str, type] | None = None,
    description: str | None = None,
    parts: Mapping[str, Iterable[str]] | None = None,
    positional: str | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Read ``--config FILE.yaml`` and flags into dataclasses.

    Args:
        flat: dataclasses whose fields are options of their own (``--out``); their names must differ.
        sections: dataclasses by section name (``--train.lr``).
        description: what --help says of the command; by default the docstring of the module of the first ``flat``.
        parts: by option, the names it may have, for --help alone.
        positional: the option whose value may stand alone; then no option takes several words.

    Returns the instances of ``flat`` in order, and those of ``sections`` by name. Raises :class:`UserError` naming
    the key where one is unknown, missing or of the wrong type, and what the dataclasses' own checks raise.
    """
    named = tuple((key, tuple(names)) for key, names in (parts or {}).items())
    parser = _command_parser(prog, tuple(flat), tuple((sections or {}).items()), description, named, positional)
    built = parser.build(parser.parse_args(argv))
    own = [arguments(**{f.name: built[f.name] for f in dataclasses.fields(arguments)}) for arguments in flat]
    return own, {name: built[name] for name in sections or {}}


@functools.cache
def _command_parser(
    prog: str,
    flat: tuple[type, ...],
    sections: tuple[tuple[str, type], ...],
    description: str | None,
    parts: tuple[tuple[str, tuple[str, ...]], ...],
    positional: str | None,
) -> StrictParser:
    """Made once: jsonargparse reads the docstrings of all sections in 0.2 s, and a script calls commands many times."""
    about = description or (sys.modules[flat[0].__module__].__doc__ or "").split("\n\n")[0]
    about = re.sub("^``python -m .*?``: (.)", lambda first: first[1].upper(), about)
    parser = StrictParser(prog=f"python -m {prog}", description=about.replace("``", ""))
    parser.positional = positional
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file with any of these options.")
    print_config = parser._option_string_actions["--print_config"]
    print_config.help, print_config.metavar = "Print all options as YAML and exit.", ""
    for arguments in flat:
        parser.add_class_arguments(arguments, as_group=False)
    parser.add_argument("-h", "--help", action="help", help="Show this and exit.")
    needed = [
        action.dest.upper() if action.dest == positional else typed(action.dest) + takes(action)
        for action in parser._actions
        if action.required
    ]
    parser.usage = " ".join(["%(prog)s", *needed, "[options]"])
    _add(parser, dict(sections))
    for key, names in parts:
        if option := parser._option_string_actions.get(f"--{key}"):
            option.help = f"{option.help or ''} One of: {', '.join(names)}.".lstrip()
    return parser


def read_file(path: Path, sections: Mapping[str, type]) -> dict[str, Any]:
    """Read a YAML file of whole sections, as strictly. Raises :class:`UserError` naming file and key."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    parser = _file_parser(tuple(sections.items()))
    parsed = parser.parse_path(path)
    try:
        built = parser.build(parsed)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return {name: built[name] for name in sections}


@functools.cache
def _file_parser(sections: tuple[tuple[str, type], ...]) -> StrictParser:
    """Made once, as a command's: a command reads several runs."""
    parser = StrictParser()
    _add(parser, dict(sections))
    return parser


def _add(parser: StrictParser, sections: Mapping[str, type]) -> None:
    for name, section in sections.items():
        heading = (section.__doc__ or name).strip().split("\n")[0].removesuffix(".")
        parser.add_class_arguments(section, name, help=f"{heading} ({name})")
        # A section as a whole, in JSON: for ppr_dist.library alone.
        parser._option_string_actions[f"--{name}"].help = SUPPRESS
