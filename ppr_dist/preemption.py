"""Preemption: SIGTERM or SIGUSR1 end training after a step, with a checkpoint, so that nothing is done again.

Signals reach ranks at different moments, or some of them only, so a rank says that it has one
(:mod:`ppr_dist.parallel.agreement`) and all stop after the same step. A second signal ends a process at once. Before
training begins and after it has ended a signal does what it does to any process.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ppr_dist import files

FILE = "preempted"
"""In the run's folder while it is to be gone on with."""
STATUS = 75
"""Exit status of a rank that was preempted: sysexits.h's EX_TEMPFAIL, "try again later"."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
ONE_NOTICE = 2.0
"""Seconds within which signals are one: under Slurm a rank has one from Slurm and the same one from torchrun."""


class Preempted(Exception):
    """A run was told to stop and has saved where it stands. Its text says by what, where, and how to go on."""


class Preemption:
    """While entered: ``asked`` from the first signal on, and the end of this process at the second.

    Python runs handlers between two bytecodes, and a collective may keep a rank from the next one for long. So the
    handler does nothing, and a thread reads from a pipe which signals there were. Outside a program's main thread,
    where Python lets nobody set handlers, none is set.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        """The name of the first signal."""
        self.stops = False
        """Whether all ranks stop here, before their end. Set by the training loop."""
        self._restore: list[Callable[[], object]] = []

    @property
    def asked(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Preemption:
        if threading.current_thread() is not threading.main_thread():
            return self
        read, write = os.pipe()
        os.set_blocking(write, False)
        for number in SIGNALS:
            before = signal.signal(number, lambda *_: None) or signal.SIG_DFL
            self._restore.append(functools.partial(signal.signal, number, before))
        woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._restore += [functools.partial(signal.set_wakeup_fd, woken), functools.partial(os.close, write)]
        threading.Thread(target=self._watch, args=(read,), name="preemption", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self._restore:
            self._restore.pop(0)()

    def _watch(self, read: int) -> None:
        """Runs until the pipe is closed."""
        first = None
        while byte := os.read(read, 1):
            if byte[0] not in SIGNALS:
                continue
            if first is None:
                first, self.signal = time.monotonic(), signal.Signals(byte[0]).name
            elif time.monotonic() > first + ONE_NOTICE:
                said = f"ppr_dist: rank {os.environ.get('RANK', 0)}: a second signal: ends at once"
                print(said, file=sys.stderr, flush=True)
                os._exit(128 + byte[0])
        os.close(read)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notice:
    """What ``RUN/preempted`` holds, as JSON."""

    signal: str
    time: str
    """When the checkpoint was there, ISO 8601 with the zone."""
    step: int
    """Of that checkpoint."""


def write(run: Path, name: str, step: int) -> None:
    """Leave ``RUN/preempted`` for whoever starts the run again (launch/node.sh requeues the job by it)."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    files.replace(run / FILE, json.dumps(dataclasses.asdict(Notice(signal=name, time=now, step=step))) + "\n")


def forget(run: Path) -> None:
    """Remove ``RUN/preempted``: the run goes on."""
    (run / FILE).unlink(missing_ok=True)


@contextmanager
def held_back() -> Iterator[None]:
    """Processes started meanwhile are never reached by :data:`SIGNALS`, nor are those that they start.

    Slurm signals every process of a job. Helpers of a rank are needed until it has saved, and end with it.
    """
    before: Any = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
