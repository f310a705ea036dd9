"""Strict options for the data commands: flags and YAML into a frozen dataclass, errors in one line."""

from __future__ import annotations

import argparse
import dataclasses
import re
from typing import TYPE_CHECKING, Any, TypeVar

from jsonargparse import ArgumentParser

from ppr_dist.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Config = TypeVar("Config", bound=DataclassInstance)


def parser(prog: str, description: str) -> ArgumentParser:
    """Return a parser that knows ``--config`` and raises instead of exiting."""
    result = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    result.add_argument("--config", action="config", help="YAML file with any of the options below")
    return result


def parse(commands: ArgumentParser, argv: list[str]) -> Any:
    """Parse ``argv`` and return the namespace.

    Flags may be written with hyphens or underscores (``--simulate-cold`` and ``--simulate_cold``).
    Raises :class:`UserError` with one line naming the unknown key, wrong type or missing option.
    """
    try:
        return commands.parse_args([_underscored(word) for word in argv])
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error


def build(config: type[Config], arguments: Any) -> Config:
    """Return the dataclass ``config`` filled from the parsed ``arguments``; its own checks may raise."""
    return config(**{field.name: arguments[field.name] for field in dataclasses.fields(config)})


def _underscored(word: str) -> str:
    """Turn the option's own hyphens into underscores; keys below it (``--buckets.my-column``) stay."""
    flag = re.match(r"--[A-Za-z][A-Za-z0-9_-]*", word)
    if flag is None:
        return word
    return "--" + flag.group()[2:].replace("-", "_") + word[flag.end() :]
