"""What a reader is: the files of a data set as they are published → SQL of a click log, of profiles and of items.

A reader only writes SQL; :mod:`~ppr_dist.data.readers.convert` runs it out of core, checks what comes out and writes
it. A value that is not of its column's type, and a line with more or fewer fields, end the command in one line with
the file and the line's number.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import duckdb

from ppr_dist.data.prepare.sources import csv_header, identifier, literal
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    """What is to be written, as SQL queries."""

    interactions: str
    """user_id, item_id and timestamp (a number of seconds, or a TIMESTAMP) or position; then what else is known of a
    click, ``rating`` where there are ratings. Later queries may read its result as ``interactions``."""
    users: str | None = None
    """user_id and attributes, a row for each user; None = the data set has no profiles."""
    items: str | None = None
    """item_id and what is known of items (title, genres, category, image, …), a row for each item; None = nothing."""
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Further tables, by the name of their file."""
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What of the files is in none of these: words → a query of its number."""


class Reader(ABC):
    """A public data set. The docstring of its file says which event is a click, and where that is from."""

    title: ClassVar[str]
    """What the data set is called."""
    page: ClassVar[str]
    """Where it is published."""
    terms: ClassVar[str]
    """Under which terms, in a few words."""

    @abstractmethod
    def read(self, raw: Raw) -> Log:
        """Find the files in ``raw`` and say what is to be read of them."""

    def published(self) -> str:
        """Where the data is to be had and under which terms, as a clause of one line."""
        return f"{self.title} is published at {self.page} ({self.terms})"


class Raw:
    """Where the user has the files: a folder (they may lie below it), the publisher's zip, or one file.

    Of one file those beside it are found too: it says which is meant where there are several.
    """

    def __init__(self, path: Path, con: duckdb.DuckDBPyConnection, unpacked: Path) -> None:
        """``unpacked``: a folder for the members of a zip; only those that are asked for are unpacked."""
        self.path, self.con, self._unpacked = path, con, unpacked
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        self._zip = zipfile.is_zipfile(path) if path.is_file() else False

    def files(self, *patterns: str, without: str = "") -> list[Path]:
        """The files whose names fit one of ``patterns`` (or do with .gz behind them) and not ``without``, sorted."""
        if self._zip:
            return self._members(patterns, without)
        if self.path.is_file() and _fits(self.path, patterns, without):
            return [self.path]
        found = self.path.parent.glob("*") if self.path.is_file() else self.path.rglob("*")
        return [file for file in sorted(found) if _fits(file, patterns, without) and file.is_file()]

    def some(self, *patterns: str) -> list[Path]:
        """The files that fit. Raises :class:`UserError` where none does."""
        return self.files(*patterns) or [self.file(*patterns)]

    def optional(self, *patterns: str, without: str = "") -> Path | None:
        """The one file that fits, or None. Raises :class:`UserError` where several do."""
        found = self.files(*patterns, without=without)
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:3])
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise UserError(f"{self.path}: holds {len(found)} files {' or '.join(patterns)} ({names}{more}); name one")
        return found[0] if found else None

    def file(self, *patterns: str, without: str = "") -> Path:
        """The one file that fits. Raises :class:`UserError` where none or several do."""
        found = self.optional(*patterns, without=without)
        if found is None:
            where = "beside it" if self.path.is_file() and not self._zip else "in it"
            raise UserError(f"{self.path}: no {' or '.join(patterns)} {where}")
        return found

    def csv(
        self,
        files: Path | Sequence[Path],
        columns: Mapping[str, str],
        *,
        delim: str = ",",
        quote: str = '"',
        encoding: str = "utf-8",
        header: bool = False,
        null: Sequence[str] = ("",),
    ) -> str:
        """SQL of a table of the ``columns`` (name → type) in text files.

        Without ``header`` they are all columns in their order; with it, those of that name (blanks around it do not
        count) are read, and what is not there is refused by name.
        """
        files = [files] if isinstance(files, Path) else list(files)
        types = dict(columns)
        if header:
            types = {}
            for name in map(str.strip, csv_header(str(files[0]), files)):
                types[name] = columns.get(name, "VARCHAR")
            if missing := [name for name in columns if name not in types]:
                raise UserError(f"{files[0]}: no column {', '.join(map(repr, missing))}; it has {', '.join(types)}")
        options = {
            "auto_detect": "false",
            "header": str(header).lower(),
            "delim": literal(delim),
            "quote": literal(quote),
            "escape": literal(quote),
            "encoding": literal(encoding),
            "nullstr": _list(null),
            "hive_partitioning": "false",
            "columns": f"{{{', '.join(f'{literal(name)}: {literal(kind)}' for name, kind in types.items())}}}",
        }
        table = f"read_csv({_list(map(str, files))}, {', '.join(f'{key} = {value}' for key, value in options.items())})"
        return f"(SELECT {', '.join(map(identifier, columns))} FROM {table})"

    def json(self, file: Path, columns: Mapping[str, str]) -> str:
        """SQL of a table of the ``columns`` (key → type) in a file of JSON lines; a key that is absent is null."""
        types = ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in columns.items())
        return f"read_json({literal(str(file))}, format = 'newline_delimited', columns = {{{types}}})"

    def _members(self, patterns: Sequence[str], without: str) -> list[Path]:
        with zipfile.ZipFile(self.path) as archive:
            names = sorted(m.filename for m in archive.infolist() if not m.is_dir())
            return [Path(archive.extract(m, self._unpacked)) for m in names if _fits(Path(m), patterns, without)]


def _fits(file: Path, patterns: Sequence[str], without: str) -> bool:
    name = file.name.removesuffix(".gz")
    if name.startswith(".") or "__MACOSX" in file.parts:  # what file managers and zips from a Mac leave
        return False
    return any(fnmatch.fnmatchcase(name, p) for p in patterns) and not fnmatch.fnmatchcase(name, without)


def _list(texts: Sequence[str] | map[str]) -> str:
    return f"[{', '.join(map(literal, texts))}]"


def first_of_each(key: str, query: str) -> str:
    """SQL of the rows of ``query`` without those whose ``key`` an earlier row has, in the order of the file."""
    numbered = f"SELECT *, row_number() OVER () AS row_of_file FROM ({query})"
    return (
        f"SELECT * EXCLUDE (row_of_file) FROM ({numbered})"
        f" QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY row_of_file) = 1"
    )


def seconds_or_milliseconds(column: str) -> str:
    """SQL of a TIMESTAMP of an integer in seconds or in milliseconds since 1970: 10^11 s are in the year 5138."""
    return f"epoch_ms(CASE WHEN {column} < 100000000000 THEN {column} * 1000 ELSE {column} END)"
