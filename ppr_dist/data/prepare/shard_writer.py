"""Write the indexed tables as tar shards of Arrow record batches and as Parquet, byte for byte reproducible.

Shapes: U users of a shard, E events of a shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

from ppr_dist.data.manifest import VECTOR, Attribute, LabelSpace, Shard, Split
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.labels import labels_of_users
from ppr_dist.data.prepare.sources import scalars
from ppr_dist.data.prepare.user_vectors import RawVectors
from ppr_dist.files import sha256

ROWS = 1 << 20
"""Rows fetched and written at a time: one Parquet row group."""


def write_table(
    con: duckdb.DuckDBPyConnection, columns: str, table: str, key: str, schema: pa.Schema, path: Path
) -> Iterator[pa.RecordBatch]:
    """Write ``columns`` of ``table`` as Parquet, in the order of ``key`` (0, 1, … without gaps); yield the parts.

    Ranges are fetched one by one: DuckDB's own writer cuts row groups as its threads happen to finish.
    """
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for low in range(0, scalars(con, f"SELECT count(*) FROM {table}")[0], ROWS):
            where = f"WHERE {key} >= {low} AND {key} < {low + ROWS}"
            chunk = _fetch(con, f"SELECT {columns} FROM {table} {where} ORDER BY {key}")
            chunk = chunk.cast(schema)
            writer.write_table(chunk, row_group_size=ROWS)
            yield from chunk.to_batches()


def write_split(
    con: duckdb.DuckDBPyConnection,
    split: int,
    folder: Path,
    attributes: tuple[Attribute, ...],
    times: bool,
    labels: Sequence[LabelSpace],
    config: PrepareConfig,
    advance: Callable[[int], object],
    vectors: RawVectors | None = None,
) -> Split:
    """Write the shards of split number ``split`` to ``folder``; ``advance`` hears the users written."""
    folder.mkdir()
    first, users, events = scalars(
        con, f"SELECT min(user_index), count(*), sum(events) FROM people WHERE split = {split}"
    )
    per_shard = config.users_per_member * config.members_per_shard
    shards = []
    for number, low in enumerate(range(first, first + users, per_shard)):
        high = min(low + per_shard, first + users)
        batch = shard_batch(con, low, high, attributes, times, labels, vectors)
        path = folder / f"{number:05d}.tar"
        # Fixed owner and time: the same input gives the same bytes.
        with (
            path.open("wb") as file,
            webdataset.TarWriter(file, user="ppr_dist", group="ppr_dist", mode=0o444, mtime=0.0, encoder=False) as tar,
        ):
            for member, start in enumerate(range(0, batch.num_rows, config.users_per_member)):
                key = f"{number * config.members_per_shard + member:08d}"
                tar.write({"__key__": key, "arrow": stream_bytes(batch.slice(start, config.users_per_member))})
        shards.append(
            Shard(
                path=f"{folder.name}/{path.name}",
                users=batch.num_rows,
                events=len(batch.column("items").values),
                bytes=path.stat().st_size,
                sha256=sha256(path),
            )
        )
        advance(batch.num_rows)
    return Split(users=users, events=events, shards=tuple(shards))


def shard_batch(
    con: duckdb.DuckDBPyConnection,
    low: int,
    high: int,
    attributes: tuple[Attribute, ...],
    times: bool,
    labels: Sequence[LabelSpace] = (),
    vectors: RawVectors | None = None,
) -> pa.RecordBatch:
    """Users ``low`` … ``high``−1 as one record batch: user, items, ``times``, a column per attribute and label space,
    ``vectors``.

    All tables lie in user order, so DuckDB reads only the row groups of the range; numpy cuts the flat
    events [E] into lists by the users' counts [U].
    """
    values = "".join(f", a{k}" for k in range(len(attributes)))
    between = f"WHERE user_index >= {low} AND user_index < {high}"
    people = _fetch(con, f"SELECT user_index, events{values} FROM people {between} ORDER BY user_index")
    flat = _fetch(con, f"SELECT * FROM sequence {between} ORDER BY rowid")
    user = people["user_index"].to_numpy().astype(np.int64)  # [U]
    count = people["events"].to_numpy().astype(np.int64)  # [U]
    if not np.array_equal(flat["user_index"].to_numpy(), np.repeat(user, count)):
        raise RuntimeError(f"events of users {low} to {high - 1} are not in user order; this is a bug in prepare")
    columns = {"user": pa.array(user), "items": _lists(flat["item_index"], count)}
    if times:
        columns["times"] = _lists(flat["time"], count)
    columns |= {a.name: pa.array(people[f"a{k}"].to_numpy().astype(np.int64)) for k, a in enumerate(attributes)}
    for space in labels:
        theirs = _fetch(con, f"SELECT * FROM {labels_of_users(space.name)} {between} ORDER BY rowid")
        counts = np.bincount(theirs["user_index"].to_numpy() - low, minlength=len(user))
        columns[space.column] = _lists(theirs["label_index"], counts)
    if vectors:
        columns[VECTOR] = vectors.of(user)
    return pa.RecordBatch.from_pydict(columns)


def _lists(flat: pa.ChunkedArray, counts: npt.NDArray[np.int64]) -> pa.ListArray:
    """Values [E] cut into lists of ``counts`` int64 [U]."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)  # [U + 1]
    np.cumsum(counts, out=offsets[1:])
    if offsets[-1] >= 2**31:  # a list<int64> has 32-bit offsets
        raise RuntimeError(f"{offsets[-1]:,} events in one shard: lower users_per_member or members_per_shard")
    values = pa.array(flat.to_numpy().astype(np.int64, copy=False))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def stream_bytes(batch: pa.RecordBatch) -> bytes:
    """Return ``batch`` as an Arrow IPC stream of one record batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _fetch(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """Return the rows of ``sql`` as a table of one chunk."""
    rows: pa.Table = con.sql(sql).to_arrow_table()
    return rows.combine_chunks()
