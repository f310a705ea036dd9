"""What a user can act on: errors that end a command, and warnings that do not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from tqdm import tqdm

Part = TypeVar("Part")


class UserError(Exception):
    """Bad input or configuration, said in one line that names the file, row or key.

    Entry points print it without a traceback and exit with status 2 (:mod:`ppr_dist.cli`).
    """


def warn(text: str) -> None:
    """Say one line on stderr, above a progress bar where there is one."""
    tqdm.write(f"ppr_dist: warning: {text}", file=sys.stderr)


def require_positive(section: Any, name: str, *fields: str) -> None:
    """Raise :class:`UserError` where a field of section ``name`` is not above 0."""
    for field in fields:
        if not getattr(section, field) > 0:
            raise UserError(f"{name}.{field} must be above 0, not {getattr(section, field)}")


def require_probability(section: Any, name: str, *fields: str) -> None:
    """Raise :class:`UserError` where a field of section ``name`` is not in [0, 1)."""
    for field in fields:
        if not 0 <= getattr(section, field) < 1:
            raise UserError(f"{name}.{field} must be in [0, 1), not {getattr(section, field)}")


def choose(option: str, name: str, parts: Mapping[str, Part]) -> Part:
    """The part of that name; raise :class:`UserError` naming ``option`` and what there is."""
    if name not in parts:
        raise UserError(f"{option} {name!r}: there is none; choose from {', '.join(parts)}")
    return parts[name]
