"""The manifest of a prepared data set: what is in it, and how to know that it has not changed.

A prepared folder ``DATA`` holds::

    manifest.json        this file
    items.parquet        item_index int64, item_id, train_count int64, tune_count int64   (row i is item i)
    train_share.npy      float32 [items]: each item's share of the train_counts; tune_share.npy of the tune_counts
    users.parquet        user_index int64, user_id, split string
    attributes.parquet   attribute string, value_index int64, value string               (index 0 = unknown)
    labels.parquet       space string, label_index int64, label string       (where prepare was given labels of users)
    item_data.NAME.npy   float16 [items, columns]: what is known of each item, where prepare was given it
    <split>/00000.tar    WebDataset shards; each member NNNNNNNN.arrow is an Arrow IPC stream of one
                         record batch: user int64, items list<int64> (oldest first), times list<int64> (of
                         each click, in Unix seconds; where the manifest says ``times``), one int64 column
                         per attribute, ``labels.NAME`` list<int64> per label space, and ``vector``
                         fixed_size_list<float16> (where the manifest says ``user_vectors``)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from ppr_dist.errors import UserError

FORMAT = 3
UNTIMED_FORMAT = 2
"""The format before clicks had times, else the same: such data is read as data without times."""
MANIFEST = "manifest.json"
TIME_END = 4_133_980_800
"""2101-01-01 in Unix seconds: a click's time is at least 0 and less than this."""

CODES, TOKENS = "codes", "tokens"
"""Names of item data that ``prepare`` makes itself; the others are the user's features."""
LABELS = "labels"
"""How the names of columns begin that hold users' labels."""
TOKEN_BASE = 2048
"""Half precision holds whole numbers up to it exactly: a token has two digits of this base."""

VECTOR = "vector"
"""Column of the shards with a user's vector."""

Kind = Literal["integer", "number", "boolean", "time", "text"]
"""What an attribute's values are; ``number``: cut into buckets, the others are categories."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    path: str
    """Path relative to the data folder: SPLIT/NNNNN.tar and nothing else."""
    users: int
    events: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    users: int
    events: int
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribute:
    name: str
    """Column name in the shards' record batches and in the users file."""
    kind: Kind
    cardinality: int
    """Number of values, the unknown value (index 0) included."""
    buckets: tuple[float, ...] | None = None
    """Right-open bucket edges of a numeric column; None for a categorical one."""
    values: str
    """SHA-256 of the known values in index order: the same means the same embeddings."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemData:
    """What is known of each item beside its id: ``item_data.NAME.npy``, float16 [items, columns]."""

    kind: Literal["features", "codes", "tokens"]
    columns: int
    """Numbers of an item; all 0 where nothing is known of it. A token is two: its high digit, its low one."""
    known: int
    """Items of which something is known."""
    sha256: str
    """Of the numbers, row after row."""
    values: int = 0
    """Codes of a level, or words of the vocabulary; they count from 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserVectors:
    """Vectors of users beside their attributes, half precision."""

    columns: int
    """Numbers of a vector; all 0 where a user has none."""
    known: int
    """Users who have one."""


def item_data_file(name: str) -> str:
    return f"item_data.{name}.npy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """What users have none, one or several of, and a task predicts."""

    name: str
    id_type: str
    """Of the raw labels: ``int64`` or ``string``."""
    size: int
    """Different labels."""
    values: str
    """SHA-256 of the raw labels in index order: the same means the same weights."""
    users: int
    """Users who have one."""
    most: int
    """Labels of the user who has most."""

    @property
    def column(self) -> str:
        """Its name in the shards."""
        return f"{LABELS}.{self.name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``prepare`` wrote. ``fingerprint`` is a SHA-256 over everything else in it."""

    items: int
    item_id_type: str
    """``int64`` or ``string``."""
    user_id_type: str
    cold_threshold: int
    """Users with fewer interactions than this are cold."""
    attributes: tuple[Attribute, ...]
    times: bool
    """Whether the shards hold the time of each click."""
    splits: dict[str, Split]
    tables: dict[str, str]
    """SHA-256 of the raw ids in items.parquet and users.parquet, in index order, whatever else the files hold and
    however they hold it; by file name."""
    settings: dict[str, Any]
    """The options ``prepare`` ran with (no paths)."""
    clicks: dict[str, int]
    """What the log held: :class:`ppr_dist.data.prepare.clicks.ClickCounts`."""
    item_data: dict[str, ItemData] = dataclasses.field(default_factory=dict)
    """What is known of each item, by name."""
    labels: tuple[LabelSpace, ...] = ()
    """Label spaces, by name in ascending order."""
    user_vectors: UserVectors | None = None
    """None: users have none."""
    fingerprint: str = ""

    def sealed(self) -> Manifest:
        """Return a copy with ``fingerprint`` computed."""
        body = dataclasses.replace(self, fingerprint="")._body()
        if not self.times:
            del body["times"]  # as in UNTIMED_FORMAT: a run on such data goes on with it
        if not self.item_data:
            del body["item_data"]  # as before there was any: likewise
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        return dataclasses.replace(self, fingerprint=digest)

    def save(self, folder: Path) -> None:
        body = {"format": FORMAT, **self._body()}
        (folder / MANIFEST).write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")

    def _body(self) -> dict[str, Any]:
        body = dataclasses.asdict(self)
        if not self.labels:
            del body["labels"]  # as before there were any: such data is the same to the byte
        if not self.user_vectors:
            del body["user_vectors"]
        return body

    def split(self, name: str) -> Split:
        """The split of that name, or several as one (``pretrain+tune-train``).

        Raises :class:`UserError` where there is none such, or one is named twice.
        """
        names = name.split("+")
        for each in names:
            if each not in self.splits:
                raise UserError(f"no split {each!r} in the data: it has {', '.join(self.splits)}")
            if names.count(each) > 1:
                raise UserError(f"split {each!r} is named twice: its users would be read twice in an epoch")
        parts = [self.splits[each] for each in names]
        return Split(
            users=sum(part.users for part in parts),
            events=sum(part.events for part in parts),
            shards=tuple(shard for part in parts for shard in part.shards),
        )


def load_manifest(folder: Path) -> Manifest:
    """Read ``folder/manifest.json``; raise :class:`UserError` where it is absent, damaged or edited."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `python -m ppr_dist.prepare … --out {folder}` first")
    try:
        body = json.loads(path.read_text())
        written = body.pop("format")
        if written == UNTIMED_FORMAT:
            body["times"] = False
        elif written != FORMAT:
            raise UserError(f"{path}: written by another version of ppr_dist; run prepare again")
        body["attributes"] = tuple(
            Attribute(**{**a, "buckets": tuple(a["buckets"]) if a["buckets"] is not None else None})
            for a in body["attributes"]
        )
        body["splits"] = {
            name: Split(**{**s, "shards": tuple(Shard(**shard) for shard in s["shards"])})
            for name, s in body["splits"].items()
        }
        body["item_data"] = {name: ItemData(**data) for name, data in body.get("item_data", {}).items()}
        body["user_vectors"] = UserVectors(**body["user_vectors"]) if body.get("user_vectors") else None
        body["labels"] = tuple(LabelSpace(**space) for space in body.get("labels", ()))
        manifest = Manifest(**body)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a manifest of ppr_dist ({error})") from error
    for name, split in manifest.splits.items():
        for shard in split.shards:
            if not re.fullmatch(r"([a-z-]+)/[0-9]{5,}\.tar", str(shard.path)) or shard.path.split("/")[0] != name:
                raise UserError(f"{path}: split {name!r}: shard path {shard.path!r} is not {name}/NNNNN.tar")
    if manifest.sealed().fingerprint != manifest.fingerprint:
        raise UserError(f"{path}: fingerprint does not match its content; run prepare again")
    return manifest
