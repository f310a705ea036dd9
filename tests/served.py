"""What ``recommend`` reads from raw files, all users at once."""

from __future__ import annotations

import dataclasses
import pickle
import tempfile
from pathlib import Path

import pyarrow as pa

from ppr_dist.data.manifest import Manifest
from ppr_dist.data.prepare.raw_users import RawUsers, load_raw_users
from ppr_dist.data.stream.users import Users


@dataclasses.dataclass(frozen=True)
class Served(RawUsers):
    ids: pa.Array
    """Raw ids of all users."""
    all: Users
    """All users, in the order of the file."""


def read_raw_users(users: Path, interactions: Path | None, data: Path, manifest: Manifest) -> Served:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        raw = pickle.loads(pickle.dumps(load_raw_users(users, interactions, data, manifest, work)))
        assert [path.name for path in work.iterdir()] == ["users.arrow"]
        ids, everyone = raw.read(0, raw.users)
    return Served(**vars(raw), ids=ids, all=everyone)
