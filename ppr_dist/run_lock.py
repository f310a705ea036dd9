"""One trainer per run: a second one would mix its metrics and checkpoints with the first one's."""

from __future__ import annotations

import datetime
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppr_dist import files
from ppr_dist.errors import UserError, warn
from ppr_dist.parallel.distributed import DistributedContext, on_main

LOCK = "lock"
"""Its name in the run's folder."""
PATIENCE = 5.0
"""Seconds given to a trainer that was killed a moment ago to be gone."""
PATIENCE_WITH_OWN_JOB = 120.0
"""The same for the earlier start of a requeued Slurm job: if its machine died, a file server keeps the lock for a while
(NFS 4: 90 s)."""


@contextmanager
def locked(run: Path, context: DistributedContext) -> Iterator[None]:
    """Hold ``RUN/lock`` on rank 0 while the run trains. A collective.

    The lock is the kernel's (flock): it ends with its holder, however that ends, so there is no stale one. NFS and most
    cluster file systems keep it between machines; one that keeps none gets a warning. The file says who holds it.
    A folder that holds nothing else at the end is removed again.

    Raises :class:`UserError` on all ranks, naming the holder, where another process trains this run.
    """
    file = on_main(lambda: _take(run))  # rank 0's file descriptor: a number of no use to the others
    try:
        yield
    finally:
        if context.main:
            _release(run, file)


def _take(run: Path) -> int:
    """Open and lock the file; wait a little where it is held."""
    files.check_writable(run)
    began = time.monotonic()
    while True:
        run.mkdir(parents=True, exist_ok=True)
        file = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(file, 1000, 0).decode() or "it is just starting"
            waited = time.monotonic() - began
            own_job = "SLURM_JOB_ID" in os.environ and holder.endswith(_job())
            if waited > (PATIENCE_WITH_OWN_JOB if own_job else PATIENCE):
                os.close(file)
                raise UserError(f"{run} is being trained by another process: {holder}") from error
        except OSError as error:
            said = f"{run / 'lock'}: no locks on this file system ({error.strerror}); nothing stops a second trainer"
            warn(said)
            return file
        else:
            if _is(run / LOCK, file):  # else its last holder has removed it
                now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
                os.ftruncate(file, 0)
                os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}, since {now}{_job()}".encode(), 0)
                return file
        os.close(file)
        time.sleep(0.2)


def _release(run: Path, file: int) -> None:
    os.ftruncate(file, 0)
    if [path.name for path in run.iterdir()] == [LOCK]:
        (run / LOCK).unlink()
        run.rmdir()
    os.close(file)


def _job() -> str:
    return f", Slurm job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""


def _is(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
