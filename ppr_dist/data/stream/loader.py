"""Batches of an exact stream, made in this process or by worker processes that live as long as their loader."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ppr_dist.batch import Batch
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.errors import UserError
from ppr_dist.preemption import held_back

PRELOAD = ("ppr_dist.training", "pandas")
"""What the server that workers are forked from imports once. Otherwise each worker takes 3 s for the first, and 5 s for
pandas, which pyarrow imports, where there is one, to make an array of numpy's."""


@dataclasses.dataclass(frozen=True)
class Loader:
    stream: UserStream
    collator: Collator
    workers: int
    pin: bool = False

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[int, Batch]]:
        """Yield (step, batch) for the rest of an epoch; the same whatever ``workers`` is.

        One epoch at a time: the next call ends what the one before has left. Raises :class:`UserError`, marked with
        this rank, where the data cannot be read.
        """
        batches: Iterator[tuple[int, Batch] | UserError]
        if self.workers == 0:
            batches = iter(_Batches(self.stream, self.collator, [epoch, first_step]))
        else:
            self._workers.start[:] = [epoch, first_step]
            batches = iter(self._workers.loader)
        for item in batches:
            if isinstance(item, UserError):
                item.rank = self.stream.rank  # type: ignore[attr-defined]
                raise item
            step, batch = item
            yield step, batch.pin_memory() if self.pin and self.workers == 0 else batch

    @functools.cached_property
    def _workers(self) -> _Workers:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOAD))
        multiprocessing.resource_tracker.ensure_running()  # it lets SIGTERM through again as it starts
        with held_back():
            multiprocessing.forkserver.ensure_running()
        start = context.RawArray("q", 2)
        # batch_size=None: a worker's items are whole batches, handed out in turn: worker w makes every W-th.
        loader = DataLoader(
            _Batches(self.stream, self.collator, start),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.pin,
            multiprocessing_context=context,
            persistent_workers=True,
            worker_init_fn=_end_with_the_rank,
        )
        return _Workers(loader, start)


@dataclasses.dataclass(frozen=True)
class _Workers:
    loader: DataLoader[tuple[int, Batch] | UserError]
    start: Any
    """Epoch and first step, in memory that the workers share."""


def _end_with_the_rank(worker: int) -> None:
    """End this worker when the rank that it works for is gone, however that ended.

    DataLoader's own watch is on the server that forked the worker, and that lives as long as one worker does.
    """

    def watch() -> None:
        rank = multiprocessing.parent_process()
        assert rank is not None
        rank.join()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


class _Batches(IterableDataset[tuple[int, Batch] | UserError]):
    """The batches from ``start`` (epoch, first step) on, as it reads when the first of them is asked for."""

    def __init__(self, stream: UserStream, collator: Collator, start: Any) -> None:
        self.stream, self.collator, self.start = stream, collator, start

    def __iter__(self) -> Iterator[tuple[int, Batch] | UserError]:
        # DataLoader asks for nothing of an epoch before all workers have left the one before.
        epoch, first_step = self.start
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
        steps = range(first_step + offset, self.stream.steps, stride)
        try:
            for step, total, users in self.stream.batches(epoch, steps):
                yield step, self.collator(users, epoch=epoch, step=step, global_users=total)
        except UserError as error:
            # An exception raised in a worker would arrive wrapped in its traceback; as an item it stays one line.
            yield error
