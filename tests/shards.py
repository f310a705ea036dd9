"""Small data sets written shard by shard, without ``prepare``: any users, any ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import webdataset

from ppr_dist.data.manifest import TIME_END, Attribute, LabelSpace, Manifest, Shard, Split
from ppr_dist.data.prepare.shard_writer import stream_bytes
from ppr_dist.data.stream.users import Ragged, Users
from ppr_dist.files import sha256

ATTRIBUTES = {"age": 5, "city": 11}


def random_users(
    count: int,
    items: int,
    *,
    shortest: int = 0,
    longest: int = 12,
    seed: int = 3,
    first_index: int = 0,
    times: bool = False,
    labels: tuple[LabelSpace, ...] = (),
) -> Users:
    """Users first_index …, each with shortest … longest clicks, at random ``times`` or at none, and random labels."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, count)
    return Users(
        index=first_index + np.arange(count),
        items=rng.integers(0, items, lengths.sum()),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        attributes=np.stack([rng.integers(0, n, count) for n in ATTRIBUTES.values()]),
        times=rng.integers(0, TIME_END, lengths.sum()) if times else None,
        labels=random_labels(count, labels, seed),
    )


def random_labels(count: int, spaces: tuple[LabelSpace, ...], seed: int = 3) -> dict[str, Ragged]:
    """Of each user up to the most labels that the space says, of some none."""
    rng = np.random.default_rng([seed, 1])
    return {
        each.name: ragged([rng.permutation(each.size)[: rng.integers(0, each.most + 1)].tolist() for _ in range(count)])
        for each in spaces
    }


def clicks_of(users: Users, row: int) -> list[int]:
    return users.items[users.offsets[row] : users.offsets[row + 1]].tolist()


def times_of(users: Users, row: int) -> list[int]:
    assert users.times is not None
    return users.times[users.offsets[row] : users.offsets[row + 1]].tolist()


def labels_of(users: Users, name: str, row: int) -> list[int]:
    labels = users.labels[name]
    return labels.values[labels.offsets[row] : labels.offsets[row + 1]].tolist()


def select(users: Users, rows: list[int]) -> Users:
    """The given users, in the given order."""
    lists = [clicks_of(users, row) for row in rows]
    return Users(
        index=users.index[rows],
        items=np.array([item for clicks in lists for item in clicks], np.int64),
        offsets=np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]).astype(np.int64),
        attributes=users.attributes[:, rows],
        times=None
        if users.times is None
        else np.array([time for row in rows for time in times_of(users, row)], np.int64),
        labels={name: ragged([labels_of(users, name, row) for row in rows]) for name in users.labels},
    )


def ragged(lists: list[list[int]]) -> Ragged:
    values = np.array([value for each in lists for value in each], np.int64)
    return Ragged(values, np.concatenate([[0], np.cumsum([len(each) for each in lists])]).astype(np.int64))


def rank_part(users: Users, rank: int, world_size: int) -> Users:
    """The slice of a global batch that a rank reads."""
    return select(users, list(range(rank * len(users) // world_size, (rank + 1) * len(users) // world_size)))


def write_data(
    folder: Path,
    splits: dict[str, Users],
    *,
    items: int,
    per_shard: int,
    per_member: int = 4,
    labels: tuple[LabelSpace, ...] = (),
) -> Manifest:
    """Write each split as shards of ``per_shard`` users in members of ``per_member``; return the manifest."""
    written = {}
    for name, users in splits.items():
        (folder / name).mkdir(parents=True)
        shards = []
        for number, low in enumerate(range(0, len(users), per_shard)):
            part = select(users, list(range(low, min(low + per_shard, len(users)))))
            path = folder / name / f"{number:05d}.tar"
            with path.open("wb") as file, webdataset.TarWriter(file, encoder=False) as tar:
                for member, start in enumerate(range(0, len(part), per_member)):
                    rows = list(range(start, min(start + per_member, len(part))))
                    tar.write({"__key__": f"{number:04d}{member:04d}", "arrow": stream_bytes(_record(part, rows))})
            shards.append(
                Shard(
                    path=f"{name}/{path.name}",
                    users=len(part),
                    events=len(part.items),
                    bytes=path.stat().st_size,
                    sha256=sha256(path),
                )
            )
        written[name] = Split(users=len(users), events=len(users.items), shards=tuple(shards))
    manifest = Manifest(
        items=items,
        item_id_type="int64",
        user_id_type="int64",
        cold_threshold=10,
        attributes=tuple(
            Attribute(name=name, kind="integer", cardinality=n, values="") for name, n in ATTRIBUTES.items()
        ),
        times=any(users.times is not None for users in splits.values()),
        splits=written,
        tables={},
        settings={},
        clicks={},
        labels=labels,
    ).sealed()
    manifest.save(folder)
    return manifest


def _record(users: Users, rows: list[int]) -> pa.RecordBatch:
    lists = pa.list_(pa.int64())
    columns = {"user": pa.array(users.index[rows]), "items": pa.array([clicks_of(users, row) for row in rows], lists)}
    if users.times is not None:
        columns["times"] = pa.array([times_of(users, row) for row in rows], lists)
    columns |= {name: pa.array(values[rows]) for name, values in zip(ATTRIBUTES, users.attributes, strict=True)}
    for name in users.labels:
        columns[f"labels.{name}"] = pa.array([labels_of(users, name, row) for row in rows], lists)
    return pa.RecordBatch.from_pydict(columns)
