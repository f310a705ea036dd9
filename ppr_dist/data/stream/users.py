"""Columnar blocks of users, and how they are read from WebDataset shards.

Shapes: n users, E events (clicks), A attributes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from webdataset.tariterators import group_by_keys, tar_file_expander

from ppr_dist.arrays import Int64Array
from ppr_dist.data import remote
from ppr_dist.data.manifest import TIME_END, Manifest, Shard
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True)
class Users:
    """Users with their clicks as one ragged array; nothing here is a Python object per user."""

    index: Int64Array
    """User index, [n]."""
    items: Int64Array
    """Item index of every click, user after user, oldest first, [E]."""
    offsets: Int64Array
    """User i's clicks are items[offsets[i]:offsets[i + 1]], [n + 1]."""
    attributes: Int64Array
    """Value index of each attribute, 0 = unknown, [A, n]."""
    times: Int64Array | None = None
    """Unix seconds of every click, beside ``items``, [E]; a user's never fall, unless a position ordered the clicks.
    None where the data has no times."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def lengths(self) -> Int64Array:
        """Clicks per user, [n]."""
        return np.diff(self.offsets)


def to_users(table: pa.Table | pa.RecordBatch, attributes: Sequence[str], *, times: bool) -> Users:
    """Turn columns ``user``, ``items``, ``times`` and the named attributes into :class:`Users` (int64 throughout).

    Args:
        times: whether the table has them (``Manifest.times``).
    """
    items = _lists(table, "items")
    offsets = items.offsets.to_numpy().astype(np.int64)
    columns = [table.column(name).to_numpy() for name in attributes]
    return Users(
        index=table.column("user").to_numpy(),
        items=items.flatten().to_numpy(),
        offsets=offsets - offsets[0] if len(offsets) else np.zeros(1, np.int64),
        attributes=np.stack(columns) if columns else np.zeros((0, table.num_rows), np.int64),
        times=_lists(table, "times").flatten().to_numpy() if times else None,
    )


def _lists(table: pa.Table | pa.RecordBatch, name: str) -> pa.ListArray | pa.LargeListArray:
    column = table.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def check_shards(folder: Path, shards: Sequence[Shard]) -> None:
    """Raise :class:`UserError` where a shard is missing or not of the size the manifest states."""
    for shard in () if remote.address_of(folder) else shards:  # what is not here shows as it is read
        path = folder / shard.path
        if not path.is_file():
            raise UserError(f"{path}: shard is missing; run prepare again")
        if path.stat().st_size != shard.bytes:
            raise UserError(
                f"{path}: {path.stat().st_size} bytes, the manifest states {shard.bytes}: truncated or changed"
            )


def read_shards(folder: Path, shards: Sequence[Shard], manifest: Manifest) -> pa.Table:
    """Read whole shards into one table, in the order given.

    Raises :class:`UserError` naming the shard (and member) that is truncated, corrupt or incomplete, or that holds an
    item, time or attribute value out of range.
    """
    return pa.concat_tables([_read_shard(folder, shard, manifest) for shard in shards])


def _read_shard(folder: Path, shard: Shard, manifest: Manifest) -> pa.Table:
    path, fetched = folder / shard.path, remote.shard_bytes(folder, shard.path, shard.sha256)
    table = pa.Table.from_batches(list(_members(path, fetched, shard.users, manifest)))
    # After the members, whose complaints say more; a wrong number inside one shows only here.
    if fetched is None:
        _check_content(path, shard.sha256)
    return table


@functools.cache
def _check_content(path: Path, sha256: str) -> None:
    """Compare a shard with its checksum, once in the life of a process: every epoch would halve the reading speed."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise UserError(f"{path}: its checksum is not the manifest's: corrupt or changed")


def _members(path: Path, fetched: bytes | None, expected_users: int, manifest: Manifest) -> Iterator[pa.RecordBatch]:
    users = 0
    try:
        # Opened here, and not by webdataset: for its opener a path is a URL, and one of "pipe:…" a command to run.
        with path.open("rb") if fetched is None else io.BytesIO(fetched) as file:
            for sample in group_by_keys(tar_file_expander([{"url": str(path), "stream": file}])):
                member = f"{path}: member {sample['__key__']}.arrow"
                try:
                    with pa.ipc.open_stream(sample["arrow"]) as reader:
                        for batch in reader:
                            batch.validate(full=True)
                            _check_columns(batch, manifest, member)
                            users += batch.num_rows
                            yield batch
                except (pa.ArrowException, KeyError, OSError) as error:
                    raise UserError(f"{member}: not a valid Arrow record batch ({_first_line(error)})") from error
    except (tarfile.TarError, ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as a tar shard ({_first_line(error)})") from error
    if users != expected_users:
        raise UserError(f"{path}: holds {users} users, the manifest states {expected_users}: truncated or changed")


def _check_columns(batch: pa.RecordBatch, manifest: Manifest, member: str) -> None:
    """Raise :class:`UserError` unless all columns are there, int64, and in range; and a time for each item."""
    of_clicks = {"items": manifest.items} | ({"times": TIME_END} if manifest.times else {})
    sizes = of_clicks | {a.name: a.cardinality for a in manifest.attributes}
    for name in ("user", *sizes):
        values = batch.column(name) if name in batch.schema.names else pa.nulls(0)
        is_list = pa.types.is_list(values.type)
        if is_list and not values.null_count:
            values = values.flatten()
        if values.type != pa.int64() or values.null_count or is_list != (name in of_clicks):
            raise UserError(f"{member}: column {name!r} is not what prepare writes (int64, nothing null)")
        if name in sizes and len(values):
            low, high = pc.min_max(values).values()
            wrong = low.as_py() if low.as_py() < 0 else high.as_py()
            if not 0 <= wrong < sizes[name]:
                told = "prepare writes" if name == "times" else "the manifest has"
                raise UserError(f"{member}: column {name!r} holds {wrong}; {told} 0 to {sizes[name] - 1}")
    lengths = [pc.list_value_length(batch.column(name)) for name in of_clicks]
    if not lengths[0].equals(lengths[-1]):
        raise UserError(f"{member}: columns 'items' and 'times' differ in the lengths of their lists")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def attribute_names(manifest: Manifest) -> tuple[str, ...]:
    """Attribute columns in their fixed order."""
    return tuple(attribute.name for attribute in manifest.attributes)
