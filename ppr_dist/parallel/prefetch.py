"""Prefetching: what the ranks tell one another of the next batch travels while this one computes.

What TorchRec's TrainPipelineSparseDist does for a model that is one module, for one that is tables and an engine. Only
ids and counts run ahead; rows are looked up after the update before, so training is the same to the bit::

    host, side stream   start(k+1)             send_ids(k+1)   wait(k+1)  start(k+2) …
    stream              look up(k), forward(k), backward(k) ────────────  look up(k+1) …
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

from ppr_dist.batch import Batch
from ppr_dist.objectives.base import Exchanged, Objective
from ppr_dist.parallel.collectives import Pending, start_all_gather
from ppr_dist.parallel.embeddings import PendingLookUp, ShardedEmbeddings


@dataclasses.dataclass(frozen=True)
class PrefetchedBatch:
    """A batch, and what the ranks told one another of it."""

    batch: Batch
    look_up: PendingLookUp
    exchanged: dict[str, Exchanged]
    """By objective."""


class _Prefetch:
    """The same, under way. All methods are collectives that may make the host wait."""

    def __init__(self, batch: Batch, embeddings: ShardedEmbeddings, objectives: Mapping[str, Objective]) -> None:
        self.batch, self.objectives = batch, objectives
        self.look_up = embeddings.start_look_up(batch)
        self.integers = {name: objective.to_exchange(batch) for name, objective in objectives.items()}
        self.pending = self._start_exchange(embeddings.ids_group)

    def _start_exchange(self, group: dist.ProcessGroup) -> Pending:
        """One message of each rank to all: every objective's count, then its integers."""
        counts = torch.empty(len(self.objectives), dtype=torch.int64, device=self.batch.users.device)
        for count, objective in zip(counts, self.objectives.values(), strict=True):
            count.fill_(objective.count(self.batch))  # on the device: the numbers never visit the host again
        return start_all_gather(
            torch.cat([counts, *(each for each in self.integers.values() if each is not None)])[None], group
        )

    def send_ids(self) -> None:
        self.look_up.send_ids()

    def wait(self) -> PrefetchedBatch:
        self.look_up.wait()
        every = self.pending.wait()
        exchanged, first = {}, len(self.objectives)
        for number, (name, mine) in enumerate(self.integers.items()):
            length = 0 if mine is None else len(mine)
            exchanged[name] = Exchanged(every[:, number], every[:, first : first + length])
            first += length
        return PrefetchedBatch(self.batch, self.look_up, exchanged)


def prefetch(
    batches: Iterable[tuple[int, Batch]],
    embeddings: ShardedEmbeddings,
    objectives: Mapping[str, Objective],
    device: torch.device,
) -> Iterator[PrefetchedBatch]:
    """Yield each batch on ``device``, after starting to communicate the one behind it. A collective.

    Where the host must wait (how many ids come from whom?), it does so between two steps and on a stream of its own:
    for what was sent a step ago, while the GPU still works on the steps before.
    """
    coming: _Prefetch | None = None
    for _, batch in batches:
        with _aside(device):
            following = _Prefetch(batch.to(device), embeddings, objectives)
        if coming:
            yield _here(coming, device)
        with _aside(device):
            following.send_ids()
        coming = following
    if coming:
        yield _here(coming, device)


def fetch(batch: Batch, embeddings: ShardedEmbeddings, objectives: Mapping[str, Objective]) -> PrefetchedBatch:
    """One batch, all the way at once. A collective."""
    started = _Prefetch(batch, embeddings, objectives)
    started.send_ids()
    return started.wait()


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a GPU for what runs ahead; torch has 32 and hands them out again."""
    return torch.cuda.Stream(device, priority=-1)  # first: the host waits for it, while the GPU has other work


def _aside(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.stream(side_stream(device)) if device.type == "cuda" else nullcontext()


def _here(coming: _Prefetch, device: torch.device) -> PrefetchedBatch:
    """Let this stream use what the side stream made, and keep the memory from being given away under it."""
    with _aside(device):
        prefetched = coming.wait()
    if device.type == "cuda":
        here = torch.cuda.current_stream()
        here.wait_stream(side_stream(device))
        _record(prefetched, here)
    return prefetched


def _record(value: Any, stream: torch.cuda.Stream) -> None:
    if hasattr(value, "record_stream"):
        value.record_stream(stream)
    elif isinstance(value, dict):
        _record(tuple(value.values()), stream)
    elif type(value) is tuple:
        for each in value:
            _record(each, stream)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _record(getattr(value, field.name), stream)
