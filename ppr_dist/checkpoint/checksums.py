"""A checkpoint's files: written with checksums, and checked before anything is read of them.

``checksums.json`` says size and SHA-256 of every other file, and the SHA-256 of the ``checksums.json`` of the
checkpoint before it: a chain from the first to the last.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.storage import WriteResult

from ppr_dist.errors import UserError
from ppr_dist.files import sha256

CHECKSUMS = "checksums.json"


@dataclasses.dataclass(frozen=True)
class _Summed(WriteResult):
    """What DCP's coordinator is told of a tensor written; here of the file too."""

    sha256: str


class Writer(dcp.FileSystemWriter):
    """DCP's writer, each rank of which sums its own files as it has written them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, sync_files=True)
        self.sums: dict[str, str] = {}
        """On the coordinator, once all is written: SHA-256 by file."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        written = super().write_data(plan, planner).wait()
        names = {result.storage_data.relative_path for result in written}
        sums = {name: sha256(Path(self.path) / name) for name in names}
        done: Any = torch.futures.Future()
        done.set_result(
            [_Summed(r.index, r.size_in_bytes, r.storage_data, sums[r.storage_data.relative_path]) for r in written]
        )
        return done

    def finish(self, metadata: Any, results: Any) -> None:
        self.sums = {result.storage_data.relative_path: result.sha256 for rank in results for result in rank}
        super().finish(metadata, results)


def seal(folder: Path, known: dict[str, str], previous: Path | None) -> None:
    """Write ``checksums.json`` of a folder's files, and sync them all; ``known``: sums taken by who wrote them.

    Raises :class:`UserError` where one of those is not there: the ranks have written to unlike folders of one name.
    """
    if gone := sorted(name for name in known if not (folder / name).is_file()):
        raise UserError(f"{folder / gone[0]}: another rank wrote it, and it is not here: is RUN shared by all nodes?")
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": known.get(path.name) or sha256(path)}
        for path in sorted(folder.iterdir())
    }
    body = {"previous": {"name": previous.name, "sha256": chain_link(previous)} if previous else None, "files": files}
    (folder / CHECKSUMS).write_text(json.dumps(body, indent=1) + "\n")
    for path in [*folder.iterdir(), folder]:
        sync(path)


def chain_link(checkpoint: Path) -> str | None:
    """By what the next checkpoint names this one; None where it was written without checksums."""
    path = checkpoint / CHECKSUMS
    return sha256(path) if path.is_file() else None


def read_sums(checkpoint: Path) -> dict[str, Any] | None:
    """``checksums.json``; None where there is none. Raises :class:`UserError` where it cannot be read."""
    path = checkpoint / CHECKSUMS
    if not path.is_file():
        return None
    try:
        body = json.loads(path.read_text())
        return {"previous": body["previous"], "files": {n: (f["bytes"], f["sha256"]) for n, f in body["files"].items()}}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def find_damage(checkpoint: Path, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint's files, in a line; None: nothing. Of ``parts`` readers this is ``part``."""
    sums = read_sums(checkpoint)
    if sums is None:
        return None
    for name, (size, digest) in sorted(sums["files"].items())[part::parts]:
        path = checkpoint / name
        try:
            found = path.stat().st_size
            if found != size:
                return f"{path}: damaged: {found} bytes, {size} were written"
            if sha256(path) != digest:
                return f"{path}: damaged: its SHA-256 is not the one that was written"
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
    return None


def check(checkpoint: Path) -> None:
    """Raise :class:`UserError` on all ranks where a file is damaged. A collective; each rank reads its share."""
    try:
        mine = find_damage(checkpoint, dist.get_rank(), dist.get_world_size())
    except UserError as error:
        mine = str(error)
    said: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(said, mine)
    if damage := next((each for each in said if each), None):
        raise UserError(damage)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
