"""A rank that does nothing for too long ends the run, with the stacks of every rank in the log.

A rank may hang in a collective that another never comes to, in a file system, or in a driver: then no exception is
raised anywhere, and the job holds its GPUs until its time limit.
"""

from __future__ import annotations

import contextlib
import faulthandler
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ppr_dist import cli

FOLDER = "flight_recorder"
"""In the run's folder: what torch's flight recorder has of the last collectives, a file for each rank."""
_STDERR = 2  # the descriptor: what is written to it needs no lock of Python's
_watch: _Watch | None = None


def alive() -> None:
    """Say that something was done: a step, a block of users ranked. Costs a call; without a limit it does nothing."""
    if _watch is not None:
        _watch.last = time.monotonic()


@contextlib.contextmanager
def time_limit(minutes: float | None, run: Path, rank: int) -> Iterator[None]:
    """End this process where for so long nobody says :func:`alive`. None: never.

    Stacks of all threads go to stderr at the limit, from a thread of C that needs nothing of Python. A tenth later the
    process ends: the other ranks, which came to wait up to a step later, have then printed theirs.
    """
    global _watch
    if minutes is None:
        yield
        return
    _watch = _Watch(60 * minutes, run, rank)
    _watch.start()
    try:
        yield
    finally:
        _watch.over.set()
        _watch = None
        faulthandler.cancel_dump_traceback_later()


class _Watch(threading.Thread):
    def __init__(self, seconds: float, run: Path, rank: int) -> None:
        super().__init__(name="hang", daemon=True)
        self.seconds, self.run_folder, self.rank = seconds, run, rank
        self.last = time.monotonic()
        self.over = threading.Event()

    def run(self) -> None:
        nap, woken, armed = self.seconds / 20, time.monotonic(), -1.0
        while True:
            left = self.last + self.seconds - time.monotonic()
            if left > 0 and armed != self.last:
                armed = self.last
                faulthandler.dump_traceback_later(left, file=_STDERR)
            if self.over.wait(nap):
                return
            now = time.monotonic()
            if now - woken > 5 * nap + 1:
                self.last = now  # the whole job was stopped (scontrol suspend, Ctrl-Z), and not this rank alone
            woken = now
            if now > self.last + 1.1 * self.seconds:
                self._end()

    def _end(self) -> None:
        said = (
            f"nothing done for {self.seconds / 60:g} minutes (train.hang_minutes); what each thread does stands above"
        )
        place = self.run_folder / FOLDER / f"rank_{self.rank}"
        with contextlib.suppress(OSError):
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(torch._C._distributed_c10d._dump_fr_trace())  # type: ignore[attr-defined]
            said += f", and its last collectives in {place}"
        cli.leave(f"error (rank {self.rank}): {said}", cli.HUNG)
