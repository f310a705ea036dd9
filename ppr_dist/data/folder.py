"""Write a whole folder or nothing of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ppr_dist.errors import UserError


@contextlib.contextmanager
def new_folder(out: Path, *, overwrite: bool, marker: str) -> Iterator[Path]:
    """Yield a hidden sibling of ``out``; rename it to ``out`` at the end, remove it on any failure.

    Raises :class:`UserError` where ``out`` is a file, or holds something and ``overwrite`` is off. Even with
    ``overwrite``, only a folder with the file ``marker`` in it (one that this command wrote) is replaced.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --out names a folder")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise UserError(f"{out}: not empty; name another folder or give --overwrite true")
        if not (out / marker).is_file():
            raise UserError(f"{out}: holds no {marker}, so it is not replaced; name another folder")
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # of a dead process that had this number
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rename(old)
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        if isinstance(error, OSError):  # a full disk, a folder we may not write
            raise UserError(f"{out}: cannot be written: {error}") from error
        raise
    shutil.rmtree(old, ignore_errors=True)
