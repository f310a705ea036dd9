"""What every entry point shares: run, and where it fails say so in one line and leave at once."""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable

from ppr_dist.errors import UserError
from ppr_dist.preemption import STATUS, Preempted

RANK_0_SPEAKS_WITHIN = 20.0
"""Seconds another rank waits before it ends with an error that all have."""
BAD_INPUT, FAULT, PEER_GONE, HUNG = 2, 1, 3, 4
"""Exit status: what the user or the machine can mend; a fault of this program; another rank ended first;
nothing done for too long (:mod:`ppr_dist.guards.hang`)."""


def run(main: Callable[[list[str] | None], object], argv: list[str] | None = None) -> None:
    """Run ``main``. Whatever ends it ends this process at once: a rank that tidied up would wait for the others.

    A :class:`UserError`, an OSError (a full disk) and too little memory are one line on stderr and status 2; a fault of
    the program is a traceback and status 1. An error raised on every rank (a :class:`UserError` without ``rank``) is
    printed by rank 0 alone; one that struck one rank carries ``rank`` and is printed by that rank, after which torchrun
    ends the others; one that meets the broken connection before says so in a line, status 3, and no traceback hides
    the cause. A run that was preempted ends with status 75 (:mod:`ppr_dist.preemption`).
    """
    _end_with_the_launcher()
    try:
        main(argv)
        if "RANK" in os.environ:
            _end_well()
    except KeyboardInterrupt:
        leave("interrupted" if _rank() == 0 else None, 128 + signal.SIGINT)
    except Preempted as error:
        leave(str(error) if _rank() == 0 else None, STATUS)
    except SystemExit:
        raise  # --help
    except UserError as error:
        struck = getattr(error, "rank", None)
        if struck is None and _rank() != 0:
            # torchrun ends all ranks once one has failed: rank 0, still importing perhaps, must have spoken before.
            time.sleep(RANK_0_SPEAKS_WITHIN)
            struck = _rank()  # still here, so it was not an error that all have
        leave(_one_line("error", struck, error), BAD_INPUT)
    except BaseException as raised:
        cause = _cause(raised)
        if peer := _peer_gone(cause):
            leave(f"rank {_rank()} ends: another rank is gone ({peer})", PEER_GONE)
        elif isinstance(cause, OSError):
            leave(_one_line("error", _rank(), cause), BAD_INPUT)
        elif _out_of_memory(cause):
            leave(_one_line("out of memory", _rank(), cause), BAD_INPUT)
        traceback.print_exc()
        leave(_one_line("fault", _rank(), f"{type(cause).__name__}: {cause}"), FAULT)


def _end_well() -> None:
    """End a rank that is done: all that Python has to tidy up, and none of C++'s threads and statics.

    Among gloo's, one of two ranks aborted once after its result was printed ("terminate called without an active
    exception"), and torchrun then calls the job failed.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _cause(error: BaseException) -> BaseException:
    """What struck a rank, where torch's checkpoints report the failures of all ranks on each of them."""
    failures = getattr(error, "failures", None)
    return next(iter(failures.values()))[0] if failures else error


def _one_line(kind: str, rank: int | None, error: object) -> str:
    where = f" (rank {rank})" if rank is not None and "RANK" in os.environ else ""
    return f"{kind}{where}: {' '.join(str(error).split()) or type(error).__name__}"


def leave(said: str | None, status: int) -> None:
    """Print what ends this process, leave it for torchrun's report too, and be gone, threads and all."""
    if said is not None:
        print(f"ppr_dist: {said}", file=sys.stderr, flush=True)
        if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            body = {"message": said, "extraInfo": {"timestamp": str(int(time.time()))}}
            with open(report, "w") as file:
                json.dump({"message": body}, file)
    # Other threads (a loader's workers, gloo, NCCL's watchdog) must not keep a failed process alive.
    os._exit(status)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _peer_gone(error: BaseException) -> str | None:
    """The words of gloo, NCCL or the store, where a collective failed because the other side is no longer there."""
    if type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError"):
        return str(error).splitlines()[0]
    words = "Connection (closed|reset) by peer|Broken pipe|Timed out waiting"
    found = re.search(words, str(error)) if isinstance(error, RuntimeError) else None
    return found and found.group()


def _out_of_memory(error: BaseException) -> bool:
    """On the GPU, in Python, or in torch's allocator on the CPU."""
    words = "can't allocate memory|not enough memory|out of memory"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(re.search(words, str(error))))


def _end_with_the_launcher() -> None:
    """Under torchrun: die as soon as torchrun does, also where it is killed and can no longer end its ranks."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return  # started by hand, perhaps to outlive its shell
    end_with_parent()


def end_with_parent() -> None:
    """Have this process killed as soon as its parent ends, however that ends."""
    set_parent_death_signal = 1  # prctl(2): PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
