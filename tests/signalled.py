"""``pretrain`` on ranks of which the last gets a signal once the run has made some steps: the command line's first word
is the signal's name, the second one the log to watch."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from ppr_dist import pretrain


def main(argv: list[str] | None = None) -> None:
    name, log, *rest = argv or []
    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
        threading.Thread(target=_signal, args=(signal.Signals[name], Path(log)), daemon=True).start()
    pretrain.main(rest)


def _signal(number: signal.Signals, log: Path) -> None:
    while not log.is_file() or len(log.read_text().splitlines()) < 4:
        time.sleep(0.02)
    os.kill(os.getpid(), number)
