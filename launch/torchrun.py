"""torchrun, but what ends it badly is one line and a status that says how, not a page of traceback.

``.venv/bin/python launch/torchrun.py`` takes torchrun's options and runs its code. Status: that of the rank that failed
first; 128 + the signal where a signal ended that rank or this launcher.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from typing import Any, NoReturn


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own default, without its banner
    try:
        # Seconds, in which a signal may come already.
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    except KeyboardInterrupt:
        end("ended by SIGINT", 128 + signal.SIGINT)
    logging.disable(logging.ERROR)  # a line for each process that it ends, and what is said below
    try:
        run.run(run.parse_args(None))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        end(f"rank {rank} {fate(failure)}", shell_status(failure.exitcode))
    except SignalException as error:
        end(f"ended by {error.sigval.name}", 128 + error.sigval)
    except KeyboardInterrupt:
        end("ended by SIGINT", 128 + signal.SIGINT)
    except Exception as error:  # no rendezvous, a port in use, a launcher that has gone
        end(f"{type(error).__name__}: {' '.join(str(error).split())}", 1)


def fate(failure: Any) -> str:
    """How a rank ended, and what it left for torchrun's report (:mod:`ppr_dist.cli`)."""
    if failure.exitcode == -signal.SIGKILL:
        return "was killed (SIGKILL; out of memory?)"
    if failure.exitcode < 0:
        return f"was killed ({failure.signal_name()})"
    said = failure.message.get("message") if isinstance(failure.message, dict) else None
    return f"failed with status {failure.exitcode}" + (f": {said}" if said else "")


def shell_status(exitcode: int) -> int:
    """A shell's status of a process that ended with ``exitcode``, which is minus the signal that killed it."""
    return exitcode if exitcode >= 0 else 128 - exitcode


def end(said: str, status: int) -> NoReturn:
    print(f"launch: {socket.gethostname()}: {said}", file=sys.stderr, flush=True)
    os._exit(status)


if __name__ == "__main__":
    main()
