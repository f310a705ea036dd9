"""Columnar blocks of users, and how they are read from WebDataset shards.

Shapes: n users, E events (clicks), A attributes, K labels of all users, F numbers of a vector.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from webdataset.tariterators import group_by_keys, tar_file_expander

from ppr_dist.arrays import Int64Array
from ppr_dist.batch import UserLabels
from ppr_dist.data import remote
from ppr_dist.data.manifest import TIME_END, VECTOR, LabelSpace, Manifest, Shard
from ppr_dist.data.stream.padding import ragged_arange
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True)
class Ragged:
    """A list of integers for each user."""

    values: Int64Array
    """User after user, [K]."""
    offsets: Int64Array
    """User i's are values[offsets[i]:offsets[i + 1]], [n + 1]."""

    @property
    def lengths(self) -> Int64Array:
        """Of each list, [n]."""
        return np.diff(self.offsets)

    def take(self, rows: Int64Array) -> Ragged:
        """The lists of these users, in the order given."""
        row, within = ragged_arange(self.lengths[rows])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths[rows])])
        return Ragged(self.values[self.offsets[rows][row] + within], offsets)


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
    labels: dict[str, Ragged] = dataclasses.field(default_factory=dict)
    """Distinct label indices of each user in every label space, in no order that means anything; none: none is known.
    Empty where the data has no labels."""
    vectors: npt.NDArray[np.float16] | None = None
    """A vector of each user beside the attributes, 0 = unknown, [n, F]; None where the data has none."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def lengths(self) -> Int64Array:
        """Clicks per user, [n]."""
        return np.diff(self.offsets)

    def take(self, rows: Int64Array) -> Users:
        """These users, in the order given; one may be there twice."""
        items = Ragged(self.items, self.offsets).take(rows)
        return Users(
            index=self.index[rows],
            items=items.values,
            offsets=items.offsets,
            attributes=self.attributes[:, rows],
            times=None if self.times is None else Ragged(self.times, self.offsets).take(rows).values,
            labels={name: labels.take(rows) for name, labels in self.labels.items()},
            vectors=None if self.vectors is None else self.vectors[rows],
        )


def batch_labels(labels: dict[str, Ragged]) -> dict[str, UserLabels]:
    """Labels of a batch's users, in their order, as the batch has them."""
    return {name: UserLabels(*map(torch.from_numpy, (each.values, each.lengths))) for name, each in labels.items()}


def to_users(
    table: pa.Table | pa.RecordBatch, attributes: Sequence[str], *, times: bool, labels: Sequence[LabelSpace] = ()
) -> Users:
    """Turn columns ``user``, ``items``, ``times``, the named attributes and labels into :class:`Users` (all int64).

    Args:
        times: whether the table has them (``Manifest.times``).
    """
    items = _ragged(table, "items")
    columns = [table.column(name).to_numpy() for name in attributes]
    return Users(
        index=table.column("user").to_numpy(),
        items=items.values,
        offsets=items.offsets,
        attributes=np.stack(columns) if columns else np.zeros((0, table.num_rows), np.int64),
        times=_ragged(table, "times").values if times else None,
        labels={space.name: _ragged(table, space.column) for space in labels},
        vectors=_vectors(table),
    )


def prepared_users(table: pa.Table | pa.RecordBatch, manifest: Manifest) -> Users:
    """:func:`to_users` of what was read from the shards of ``manifest``."""
    return to_users(table, attribute_names(manifest), times=manifest.times, labels=manifest.labels)


def _vectors(table: pa.Table | pa.RecordBatch) -> npt.NDArray[np.float16] | None:
    """[n, F]; an attribute may have the column's name, but not its type."""
    if VECTOR not in table.schema.names or not pa.types.is_fixed_size_list(table.schema.field(VECTOR).type):
        return None
    lists = _column(table, VECTOR)
    vectors: npt.NDArray[np.float16] = lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)
    return vectors


def _column(table: pa.Table | pa.RecordBatch, name: str) -> Any:
    column = table.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _ragged(table: pa.Table | pa.RecordBatch, name: str) -> Ragged:
    lists = _column(table, name)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return Ragged(lists.flatten().to_numpy(), offsets - offsets[0] if len(offsets) else np.zeros(1, np.int64))


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
    item, time, attribute value or label out of range.
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
    lists = of_clicks | {space.column: space.size for space in manifest.labels}
    sizes = lists | {a.name: a.cardinality for a in manifest.attributes}
    for name in ("user", *sizes):
        values = batch.column(name) if name in batch.schema.names else pa.nulls(0)
        is_list = pa.types.is_list(values.type)
        if is_list and not values.null_count:
            values = values.flatten()
        if values.type != pa.int64() or values.null_count or is_list != (name in lists):
            raise UserError(f"{member}: column {name!r} is not what prepare writes (int64, nothing null)")
        if name in sizes and len(values):
            low, high = pc.min_max(values).values()
            wrong = low.as_py() if low.as_py() < 0 else high.as_py()
            if not 0 <= wrong < sizes[name]:
                told = "prepare writes" if name == "times" else "the manifest has"
                raise UserError(f"{member}: column {name!r} holds {wrong}; {told} 0 to {sizes[name] - 1}")
    if manifest.user_vectors:
        values = batch.column(VECTOR) if VECTOR in batch.schema.names else pa.nulls(0)
        if values.type != pa.list_(pa.float16(), manifest.user_vectors.columns) or values.null_count:
            raise UserError(f"{member}: column {VECTOR!r} is not what prepare writes (float16, nothing null)")
    lengths = [pc.list_value_length(batch.column(name)) for name in of_clicks]
    if not lengths[0].equals(lengths[-1]):
        raise UserError(f"{member}: columns 'items' and 'times' differ in the lengths of their lists")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def attribute_names(manifest: Manifest) -> tuple[str, ...]:
    """Attribute columns in their fixed order."""
    return tuple(attribute.name for attribute in manifest.attributes)
