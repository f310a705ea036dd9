"""Write a whole folder or nothing of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ppr_dist.errors import UserError

PREFIX = ".ppr_dist-"
"""A work folder is called ``.ppr_dist-HOST-PID-…``, so that a later process knows it for a leftover."""
NOT_OURS = "lost+found"
"""What the root of a file system holds from the start."""


@contextlib.contextmanager
def new_folder(out: Path, *, overwrite: bool, marker: str) -> Iterator[Path]:
    """Yield a hidden folder inside ``out``; at the end its content becomes that of ``out``, or nothing does.

    ``out`` itself is never renamed: it may be a mount point or a link, and its parent need not be writable. The file
    ``marker`` leaves first and comes last, so a folder that has it is whole; it must be in what is written. What a
    killed process of this machine left is removed.

    Raises :class:`UserError` where ``out`` is a file, is written by another process, cannot be written, or holds
    something and ``overwrite`` is off. Even with ``overwrite``, only a folder with ``marker`` in it is replaced.
    """
    out = Path(os.path.realpath(out))
    made = False
    try:
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; --out names a folder")
        left = _work_folders(out)
        for other in left:
            if not _is_leftover(other):
                raise UserError(
                    f"{other}: another process is writing here, or was killed on another machine; then remove it"
                )
        if _content(out):
            # A process killed while it replaced the folder took the marker away first.
            ours = any((place / marker).is_file() for place in (out, *(other / "old" for other in left)))
            if not overwrite:
                raise UserError(f"{out}: not empty; name another folder or give --overwrite")
            if not ours:
                raise UserError(f"{out}: holds no {marker}, so it is not replaced; name another folder")
        made = not out.exists()
        with work_folder(out) as work:
            new, old = work / "new", work / "old"
            new.mkdir()
            yield new
            old.mkdir()
            leaving = sorted(_content(out), key=lambda p: p.name != marker)
            coming = sorted(_content(new), key=lambda p: p.name == marker)
            _rename([(p, old / p.name) for p in leaving] + [(p, out / p.name) for p in coming])
        made = False
    except OSError as error:  # a full disk, a folder we may not write
        raise UserError(f"{out}: cannot be written: {error}") from error
    finally:
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()


@contextlib.contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in ``parent`` that is gone afterwards; remove those that killed processes left there."""
    for other in _work_folders(parent):
        if _is_leftover(other):
            shutil.rmtree(other, ignore_errors=True)
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{socket.gethostname()}-{os.getpid()}-", dir=parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _work_folders(parent: Path) -> list[Path]:
    return sorted(parent.glob(f"{PREFIX}*-*-*")) if parent.is_dir() else []


def _is_leftover(work: Path) -> bool:
    """Whether the process that made ``work`` is dead; one on another machine may be alive."""
    host, pid, _ = work.name.removeprefix(PREFIX).rsplit("-", 2)
    return host == socket.gethostname() and not Path("/proc", pid).exists()


def _content(folder: Path) -> list[Path]:
    """Return what ``folder`` holds beside work folders; nothing where it is absent."""
    held = folder.iterdir() if folder.is_dir() else ()
    return [p for p in held if not p.name.startswith(PREFIX) and p.name != NOT_OURS]


def _rename(moves: list[tuple[Path, Path]]) -> None:
    """Make all ``moves`` (from, to) on one file system, or none."""
    for done, (source, target) in enumerate(moves):
        try:
            source.rename(target)
        except OSError:
            for source_before, target_before in reversed(moves[:done]):
                target_before.rename(source_before)
            raise
