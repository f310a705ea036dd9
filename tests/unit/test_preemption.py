"""What a signal does to one process: the first is noted, the second ends it, also where Python cannot run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ppr_dist import preemption
from ppr_dist.preemption import Notice, Preemption, forget, held_back, write


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


STUCK = """
import ctypes, sys
from ppr_dist import preemption
from ppr_dist.preemption import Preemption
preemption.ONE_NOTICE = 0.2
with Preemption() as told:
    print("ready", flush=True)
    mutex = (ctypes.c_char * 64)()
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # for ever, as in a collective whose other side is gone
"""


@pytest.mark.parametrize("number", preemption.SIGNALS, ids=lambda number: number.name)
def test_a_second_signal_ends_a_process_that_is_stuck(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(number)
        process.send_signal(number)  # the same notice, by another way
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(10) == 128 + number
        assert process.stderr.read() == b"ppr_dist: rank 0: a second signal: ends at once\n"


def test_the_first_is_noted_and_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in preemption.SIGNALS]
    with Preemption() as told:
        assert not told.asked
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: told.asked)
        assert told.signal == "SIGUSR1"
        assert not told.stops
    assert [signal.getsignal(number) for number in preemption.SIGNALS] == before
    until(lambda: not any(thread.name == "preemption" for thread in threading.enumerate()))


def test_outside_the_main_thread_nothing_is_changed() -> None:
    found = []

    def enter() -> None:
        with Preemption() as told:
            found.append((told.asked, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_what_a_rank_starts_is_not_reached() -> None:
    with held_back():
        process = subprocess.Popen(["sleep", "60"])
    try:
        process.terminate()
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        assert process.poll() is None
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {*preemption.SIGNALS}
    finally:
        process.kill()
        process.wait()


def test_the_notice(tmp_path: Path) -> None:
    forget(tmp_path)
    write(tmp_path, "SIGTERM", 12)
    notice = Notice(**json.loads((tmp_path / "preempted").read_text()))
    assert (notice.signal, notice.step) == ("SIGTERM", 12)
    forget(tmp_path)
    assert not list(tmp_path.iterdir())
