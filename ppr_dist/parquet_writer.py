"""A Parquet data set that all ranks write: a folder of part files, complete or absent as a whole.

Rank r holds the rows that follow those of rank r − 1, and writes them in order: read by name, the parts of any number
of ranks are the same rows.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ppr_dist.errors import UserError
from ppr_dist.parallel.collectives import all_sum
from ppr_dist.parallel.distributed import DistributedContext, on_main

ROW_GROUP = 1 << 17
"""Rows written at a time; what a writer holds in memory."""
PART = 1 << 22
"""Rows after which a rank begins its next file."""
_NAME = re.compile(r"part-\d{5}-\d{5}\.parquet")
ID_TYPES = {"int64": pa.int64(), "string": pa.large_string()}
"""Arrow types of raw ids: a large_string array may hold more than 2 GiB."""


@contextlib.contextmanager
def data_set(out: Path, context: DistributedContext) -> Iterator[Path]:
    """Yield the hidden sibling of ``out`` that parts are written to; rename it to ``out`` at the end. A collective.

    A data set that stands there already is replaced at the end; what a killed process left is removed at the start.
    Raises :class:`UserError`, before any work, where ``out`` cannot be written, or holds anything but part files.
    """
    path = Path(os.path.realpath(out))  # a symbolic link stays one
    partial = path.with_name(f".{path.name}.partial")
    made = on_main(lambda: _begin(out, path, partial))
    try:
        if all_sum(torch.tensor([int(not partial.is_dir())])):
            raise UserError(f"{out}: its folder is not on a file system that all ranks share")
        yield partial
        all_sum(torch.zeros(1))  # all ranks have written
        on_main(lambda: _end(out, path, partial))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def _begin(out: Path, path: Path, partial: Path) -> list[Path]:
    """Make the folder ``partial``; return the parents that were missing, innermost first."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{out}: is a file; a data set is written as a folder of part files")
    if path.is_dir() and os.path.ismount(path):
        raise UserError(f"{out}: is a mount point, which cannot be replaced as a whole; name a folder in it")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        if path.is_dir():
            strange = next((p.name for p in path.iterdir() if not _NAME.fullmatch(p.name)), None)
            if strange is not None:
                raise UserError(f"{out}: holds {strange!r}, which is no part of a data set, so it is not replaced")
        old = path.with_name(f".{path.name}.old")
        if old.exists() and not path.exists():  # killed between two renames
            old.rename(path)
        for leftover in (partial, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error})") from error
    return made


def _end(out: Path, path: Path, partial: Path) -> None:
    old = path.with_name(f".{path.name}.old")
    try:
        if path.exists():
            path.rename(old)
        partial.rename(path)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error})") from error
    shutil.rmtree(old, ignore_errors=True)


class PartWriter:
    """This rank's parts of a data set in the making."""

    def __init__(self, folder: Path, context: DistributedContext, schema: pa.Schema) -> None:
        self.folder, self.context, self.schema = folder, context, schema
        self._waiting: list[pa.Table] = []
        self._rows = self._written = self._parts = 0
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            # A data set of no rows still has columns.
            self._flush(even_without_rows=self.context.main and not self._parts)
        if self._file is not None:
            self._file.close()

    def write(self, columns: dict[str, Any]) -> None:
        """Add rows behind the ones before. Raises :class:`UserError`, marked with this rank, where the disk refuses."""
        table = pa.table(columns).select(self.schema.names).cast(self.schema)
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP:
            self._flush()

    def _flush(self, *, even_without_rows: bool = False) -> None:
        if not self._rows and not even_without_rows:
            return
        try:
            if self._file is None:
                name = f"part-{self.context.rank:05d}-{self._parts:05d}.parquet"
                self._file, self._parts = pq.ParquetWriter(self.folder / name, self.schema), self._parts + 1
            self._file.write_table(pa.concat_tables(self._waiting) if self._waiting else self.schema.empty_table())
            self._written, self._waiting = self._written + self._rows, []
            if self._written >= PART:
                self._file.close()
                self._file, self._written = None, 0
            self._rows = 0
        except OSError as error:
            failed = UserError(f"{self.folder}: cannot be written ({error})")
            failed.rank = self.context.rank  # type: ignore[attr-defined]
            raise failed from error
