"""Batches of an exact stream, made in this process or by worker processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ppr_dist.batch import Batch
from ppr_dist.data.collate import Collator
from ppr_dist.data.stream import UserStream
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True)
class Loader:
    stream: UserStream
    collator: Collator
    workers: int
    pin: bool = False

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[int, Batch]]:
        """Yield (step, batch) for the rest of an epoch; the same whatever ``workers`` is.

        Raises :class:`UserError`, marked with this rank, where the data cannot be read.
        """
        dataset = _Epoch(self.stream, self.collator, epoch, first_step)
        batches: Iterator[tuple[int, Batch] | UserError]
        if self.workers == 0:
            batches = iter(dataset)
        else:
            # batch_size=None: a worker's items are whole batches, handed out in turn: worker w makes every W-th.
            batches = iter(
                DataLoader(
                    dataset,
                    batch_size=None,
                    num_workers=self.workers,
                    pin_memory=self.pin,
                    multiprocessing_context="forkserver",
                )
            )
        for item in batches:
            if isinstance(item, UserError):
                item.rank = self.stream.rank  # type: ignore[attr-defined]
                raise item
            step, batch = item
            yield step, batch.pin_memory() if self.pin and self.workers == 0 else batch


class _Epoch(IterableDataset[tuple[int, Batch] | UserError]):
    def __init__(self, stream: UserStream, collator: Collator, epoch: int, first_step: int) -> None:
        self.stream, self.collator, self.epoch, self.first_step = stream, collator, epoch, first_step

    def __iter__(self) -> Iterator[tuple[int, Batch] | UserError]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
        steps = range(self.first_step + offset, self.stream.steps, stride)
        try:
            for step, total, users in self.stream.batches(self.epoch, steps):
                yield step, self.collator(users, epoch=self.epoch, step=step, global_users=total)
        except UserError as error:
            # An exception raised in a worker would arrive wrapped in its traceback; as an item it stays one line.
            yield error
