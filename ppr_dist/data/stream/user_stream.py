"""The exact stream: which users make up global batch k of an epoch, and which of them this rank reads.

The order is arithmetic on (seed, epoch, step), so that any number of ranks and workers sees the same global
batches and a resumed run needs nothing but (epoch, step):

* the epoch permutes the shards and deals them to V *lanes*; V depends on the data alone;
* a lane is read in windows of ``shuffle_shards`` shards whose users are permuted together, so that any run of
  neighbours has short and long histories in equal shares: ranks get like work, and need not wait for one another;
* global batch k takes from lane v its users [k·n_v/S, (k+1)·n_v/S), S the steps of the epoch: every user
  exactly once, all lanes end together, batches differ by at most V users;
* rank r of W takes users [r·n/W, (r+1)·n/W) of a batch of n, and so reads about V/W lanes (all, if V < W).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ppr_dist.arrays import Int64Array
from ppr_dist.data.counter_random import integers, permutation
from ppr_dist.data.manifest import Manifest, Shard
from ppr_dist.data.stream.users import Users, check_shards, prepared_users, read_shards
from ppr_dist.errors import UserError

MAX_LANES = 64
STRATA = 16
"""Classes of length that neighbours are drawn from in turn; a power of two."""
_SHARDS, _USERS = 1, 2  # what a permutation is for, as a word of its key


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamState:
    """Where a stream stands: the next global batch to be read. Small, and the same on every rank."""

    fingerprint: str
    """Fingerprint of the data (manifest.json)."""
    split: str
    """Its name, or several names with "+" between them."""
    seed: int
    batch: int
    """Users per global batch."""
    shuffle_shards: int = 8
    """Shards whose users are permuted together: it decides lanes and windows, and so the order."""
    epoch: int = 0
    step: int = 0
    """Batches of this epoch already consumed."""

    def check_resumes(self, saved: StreamState) -> None:
        """Raise :class:`UserError` where ``saved`` belongs to another stream than this one."""
        if saved.fingerprint != self.fingerprint:
            raise UserError(
                f"the checkpoint was written with other data (fingerprint {saved.fingerprint[:12]}, "
                f"now {self.fingerprint[:12]}); resume with the data it was trained on"
            )
        for field in ("split", "seed", "batch", "shuffle_shards"):
            if getattr(saved, field) != getattr(self, field):
                raise UserError(
                    f"the checkpoint was written with {field} {getattr(saved, field)}, "
                    f"now {getattr(self, field)}; resume with the same configuration"
                )


def no_users(folder: Path, split: str) -> str:
    """What to say of an empty split."""
    cure = "; prepare again with --simulate-cold 0.2, and pre-train again" if split.startswith("tune-t") else ""
    return f"{folder}: split {split!r} has no users{cure}"


@dataclasses.dataclass(frozen=True)
class _Lane:
    windows: tuple[tuple[Shard, ...], ...]
    key: tuple[int, ...]

    @property
    def users(self) -> int:
        return sum(shard.users for window in self.windows for shard in window)


class UserStream:
    """Users of one split as this rank reads them, or of several (:meth:`ppr_dist.data.manifest.Manifest.split`).

    ``shuffle=False`` keeps the order of the shards (evaluation). Raises :class:`UserError` on an empty split, on
    shards that are missing or changed, and on a batch smaller than the world.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        split: str,
        *,
        batch: int,
        rank: int,
        world_size: int,
        seed: int = 0,
        shuffle: bool = True,
        shuffle_shards: int = 8,
    ) -> None:
        if batch < world_size:
            raise UserError(f"batch of {batch} users is smaller than the world of {world_size} ranks")
        self.folder, self.manifest, self.split = folder, manifest, split
        self.shards = tuple(s for s in manifest.split(split).shards if s.users)
        if not self.shards:
            raise UserError(no_users(folder, split))
        check_shards(folder, self.shards)
        self.batch, self.rank, self.world_size = batch, rank, world_size
        self.seed, self.shuffle, self.shuffle_shards = seed, shuffle, shuffle_shards
        # Few lanes for few users in a batch: each lane may round its share of a batch up by one.
        self.lanes = max(1, min(MAX_LANES, len(self.shards) // shuffle_shards, batch // 16)) if shuffle else 1
        users = sum(shard.users for shard in self.shards)
        self.steps = -(-users // (batch - self.lanes + 1))
        """Global batches per epoch, the same on every rank."""

    def state(self, epoch: int = 0, step: int = 0) -> StreamState:
        return StreamState(
            fingerprint=self.manifest.fingerprint,
            split=self.split,
            seed=self.seed,
            batch=self.batch,
            shuffle_shards=self.shuffle_shards,
            epoch=epoch,
            step=step,
        )

    def batches(self, epoch: int, steps: range) -> Iterator[tuple[int, int, Users]]:
        """Yield (step, users in the global batch, this rank's users) for the given steps of an epoch."""
        lanes = self._deal(epoch)
        readers = [_LaneReader(self.folder, self.manifest, lane, self.seed, self.shuffle) for lane in lanes]
        for step in steps:
            spans = [(step * n // self.steps, (step + 1) * n // self.steps) for n in (lane.users for lane in lanes)]
            total = sum(stop - start for start, stop in spans)
            low, high = self.rank * total // self.world_size, (self.rank + 1) * total // self.world_size
            pieces: list[pa.Table] = []
            seen = 0
            for reader, (start, stop) in zip(readers, spans, strict=True):
                first, last = max(low, seen), min(high, seen + stop - start)
                if first < last:
                    pieces.extend(reader.take(start + first - seen, start + last - seen))
                seen += stop - start
            if not pieces:
                pieces = [readers[0].empty()]
            yield step, total, prepared_users(pa.concat_tables(pieces), self.manifest)

    def _deal(self, epoch: int) -> list[_Lane]:
        order = range(len(self.shards))
        if self.shuffle:
            order = permutation(len(self.shards), self.seed, _SHARDS, epoch)  # type: ignore[assignment]
        lanes = []
        for v in range(self.lanes):
            mine = [self.shards[i] for i in order[v :: self.lanes]]
            width = self.shuffle_shards
            windows = tuple(tuple(mine[i : i + width]) for i in range(0, len(mine), width))
            lanes.append(_Lane(windows=windows, key=(_USERS, epoch, v)))
        return lanes


def spans_in_order(users: int, *, rank: int, world_size: int, at_once: int) -> list[tuple[int, int]]:
    """(Start, stop) of the users this rank takes at each step, at most ``at_once``; as many steps on every rank.

    The spans of all ranks, rank after rank, follow one another. In some step a rank may have nobody.
    """
    low, high = rank * users // world_size, (rank + 1) * users // world_size
    steps = -(-users // world_size // at_once) or 1
    edges = [low + (high - low) * step // steps for step in range(steps + 1)]
    return list(itertools.pairwise(edges))


def users_in_order(
    folder: Path, manifest: Manifest, split: str, *, rank: int, world_size: int, at_once: int
) -> tuple[int, Iterator[Users]]:
    """This rank's part of a split in the order of the user index, at most ``at_once`` users a step.

    The parts of all ranks follow one another; one shard is in memory. Returns the number of steps, the same on every
    rank (in some a rank may have nobody), and the users of each. Raises :class:`UserError` on an empty split and on
    shards that are missing or changed.
    """
    shards = tuple(s for s in manifest.split(split).shards if s.users)
    if not shards:
        raise UserError(no_users(folder, split))
    check_shards(folder, shards)
    total = sum(shard.users for shard in shards)
    spans = spans_in_order(total, rank=rank, world_size=world_size, at_once=at_once)

    def read() -> Iterator[Users]:
        lane = _Lane(windows=tuple((shard,) for shard in shards), key=())
        reader = _LaneReader(folder, manifest, lane, seed=0, shuffle=False)
        for start, stop in spans:
            pieces = list(reader.take(start, stop)) or [reader.empty()]
            yield prepared_users(pa.concat_tables(pieces), manifest)

    return len(spans), read()


class _LaneReader:
    """Reads a lane front to back, one window in memory; can start anywhere at the cost of one window."""

    def __init__(self, folder: Path, manifest: Manifest, lane: _Lane, seed: int, shuffle: bool) -> None:
        self.folder, self.manifest, self.lane, self.seed, self.shuffle = folder, manifest, lane, seed, shuffle
        self.window, self.table, self.begin = -1, None, 0

    def take(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield users [start, stop) of the lane, in pieces that each lie in one window."""
        begin = 0
        for number, shards in enumerate(self.lane.windows):
            end = begin + sum(shard.users for shard in shards)
            if begin < stop and start < end:
                table = self._load(number)
                first, last = max(start, begin), min(stop, end)
                yield table.slice(first - begin, last - first)
            begin = end

    def empty(self) -> pa.Table:
        return self._load(max(self.window, 0)).slice(0, 0)

    def _load(self, number: int) -> pa.Table:
        if self.window != number or self.table is None:
            table = read_shards(self.folder, self.lane.windows[number], self.manifest)
            if self.shuffle:
                lengths = pc.list_value_length(table.column("items")).to_numpy()
                table = table.take(pa.array(stratified_permutation(lengths, self.seed, *self.lane.key, number)))
            self.window, self.table = number, table
        return self.table


def stratified_permutation(lengths: Int64Array, seed: int, *counters: int) -> Int64Array:
    """A random order of users with histories of ``lengths`` int64 [n], any run of which is a fair sample of lengths.

    Users are cut by length into strata of equal size, each in random order, and dealt from the strata in turn: in the
    order of a van der Corput sequence, so that even two or four neighbours differ, from a random stratum on. A user is
    as likely as ever to stand anywhere, so a batch is a stratified sample: unbiased, of lower variance.
    """
    strata = STRATA
    while strata > 1 and len(lengths) < 8 * strata:
        strata //= 2
    turns = np.zeros(1, np.int64)
    while len(turns) < strata:
        turns = np.concatenate([2 * turns, 2 * turns + 1])
    turns = (turns + integers(strata, seed, *counters)) % strata

    # Two draws: which of equal lengths go to which stratum says nothing of the order within it.
    among_equals, within = (permutation(len(lengths), seed, *counters, draw) for draw in (0, 1))
    by_length = np.lexsort((among_equals, lengths))
    stratum = np.arange(len(lengths)) * strata // max(1, len(lengths))
    by_stratum = by_length[np.lexsort((within, stratum))]
    round_ = np.arange(len(lengths)) - np.searchsorted(stratum, stratum)
    order: Int64Array = by_stratum[np.lexsort((turns[stratum], round_))]
    return order
