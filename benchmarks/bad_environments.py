"""What does a run do where its environment fails it?

    python -m benchmarks.bad_environments --work FOLDER [--out results.md]

Each row is a run of two ranks, brought into trouble once it trains, what it said and how it ended; then the trouble is
taken away and the run is started again with --resume, on one rank, to its end. ``ppr_dist.verification`` proves from
the files that every user was trained exactly once an epoch. Full and read-only disks are a tmpfs of 64 MB, which needs
root; errors of a disk, a slow one and a clock that jumps are made by a library loaded before all others (faults.c),
which needs a C compiler: without, those rows say so.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.hardware import hardware, heading
from benchmarks.survival import children, logged, make_data, prove, step_of_latest, until

STEPS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="troubles whose name has this in it")
    options = parser.parse_args()
    work = options.work.resolve()
    make_data(work)
    rows = []
    for name, trouble in TROUBLES.items():
        if options.only not in name:
            continue
        row = _try(work, name, trouble)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    result = {"benchmark": "bad_environments", **hardware(), "rows": rows}
    if options.out:
        options.out.write_text(_markdown(result))
    print(json.dumps(result))


_Launcher = subprocess.Popen[bytes]
Trouble = Callable[["_Run"], "contextlib.AbstractContextManager[None]"]


class _Run:
    """A run's folder, on a disk of its own where that is possible."""

    def __init__(self, work: Path, name: str) -> None:
        self.work, self.folder = work, work / ("run-" + re.sub(r"[^a-zA-Z]+", "-", name))
        self.process: subprocess.Popen[bytes] | None = None
        self.out = work / f"{self.folder.name}.txt"
        self.faults = work / f"{self.folder.name}.faults"
        self.variables: dict[str, str] = {}
        self.note = ""
        """What was seen beside what the run said."""
        self.folder.mkdir()
        self.faults.mkdir()

    def start(self, ranks: int, *words: str, steps: int = STEPS, options: tuple[str, ...] = ()) -> _Launcher:
        launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks))
        command = ("ppr_dist.pretrain", "--config", "config.yaml", "--data", "data", "--run-dir", str(self.folder))
        limit = ("--train.max_steps", str(steps))
        environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.getcwd()}
        self.process = process = subprocess.Popen(
            [*launcher, *(words or ("--standalone",)), "-m", *command, "--resume", *limit, *options],
            cwd=self.work,
            stdout=self.out.open("ab"),
            stderr=subprocess.STDOUT,
            env=os.environ | environment | self.variables,
            start_new_session=True,
        )
        return process

    def fault(self, name: str, number: int | None) -> None:
        """Bring a fault of faults.c about; None: take it away."""
        if number is None:
            (self.faults / name).unlink()
        else:
            (self.faults / "new").write_text(str(number))
            (self.faults / "new").replace(self.faults / name)

    def said(self, pattern: str) -> list[str]:
        return [line.replace(str(self.folder), "RUN") for line in re.findall(pattern, self.out.read_text(), re.M)]


def _try(work: Path, name: str, trouble: Trouble) -> dict[str, Any]:
    run = _Run(work, name)
    row: dict[str, Any] = {"trouble": name, "ended": None, "said": "", "proved": ""}
    disk = name in ("disk full", "read-only")
    if disk and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", run.folder], check=False).returncode:
        return row | {"said": "not tried: mounting a tmpfs needs root"}
    if trouble in FAULTS:
        if shutil.which("cc") is None:
            return row | {"said": "not tried: no C compiler"}
        library, source = work / "faults.so", Path(__file__).with_name("faults.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
        run.variables = {"LD_PRELOAD": str(library), "FAULTS": str(run.faults)}
    try:
        with trouble(run):
            assert run.process is not None
            row["ended"] = run.process.wait(600)
            row["at_checkpoint"] = step_of_latest(run.folder)
            said = run.said(r"^.*?(ppr_dist: error.*|\S*Error: .*address already in use.*)")
            row["said"] = said[0] if said else ""
        row["said"] = row["said"] or run.note
        run.variables = {}
        if row["ended"]:
            row["again"] = run.start(1).wait(600)
        row["proved"] = prove(work, run.folder)
    finally:
        if run.process is not None and run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
        if disk:
            subprocess.run(["umount", "-l", run.folder], check=False)
    return row


@contextlib.contextmanager
def _disk_full(run: _Run) -> Iterator[None]:
    """Somebody else fills the disk while it trains."""
    until(lambda: logged(run.folder) > 20, run.start(2))
    filler = run.folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(2**16))
            file.flush()
    yield
    filler.unlink()


@contextlib.contextmanager
def _read_only(run: _Run) -> Iterator[None]:
    until(lambda: logged(run.folder) > 20, run.start(2))
    # A file system with files open for writing cannot be remounted: a second mount of it over the first can be.
    subprocess.run(["mount", "--bind", run.folder, run.folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", run.folder], check=True)
    yield
    subprocess.run(["umount", "-l", run.folder], check=True)


@contextlib.contextmanager
def _slow_rank(run: _Run) -> Iterator[None]:
    """A rank that stands still again and again."""
    launcher = run.start(2)
    until(lambda: logged(run.folder) > 20, launcher)
    for _ in range(5):
        rank = children(launcher.pid)[1]
        os.kill(rank, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(rank, signal.SIGCONT)
        time.sleep(0.3)
    yield


@contextlib.contextmanager
def _port_taken(run: _Run) -> Iterator[None]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run.start(2, "--master-addr", "127.0.0.1", "--master-port", str(port))
        yield


@contextlib.contextmanager
def _error_in_write(run: _Run) -> Iterator[None]:
    until(lambda: logged(run.folder) > 20, run.start(2))
    run.fault("write", errno.EIO)
    yield


@contextlib.contextmanager
def _error_in_sync(run: _Run) -> Iterator[None]:
    """For a while, in a run that is told to go on."""
    launcher = run.start(2, options=("--train.on_failed_checkpoint", "continue"))
    until(lambda: logged(run.folder) > 20, launcher)
    run.fault("fsync", errno.EIO)
    until(lambda: len(run.said("and training goes on$")) > 2, launcher)
    run.fault("fsync", None)
    yield
    warnings = run.said(r"ppr_dist: warning: a checkpoint cannot.*")
    run.note = f"{len(warnings)} times: {warnings[0]}"


@contextlib.contextmanager
def _slow_disk(run: _Run) -> Iterator[None]:
    """Each sync of a checkpoint's file takes half a second longer."""
    launcher = run.start(2)
    until(lambda: logged(run.folder) > 20, launcher)
    run.fault("slow", 500)
    at_once, steps = 0, collections.defaultdict(set)
    begun = time.monotonic()
    while time.monotonic() < begun + 30 and launcher.poll() is None:
        writing = [path.name for path in (run.folder / "checkpoints").glob(".step-*")]
        at_once = max(at_once, len(writing))
        for name in writing:
            steps[name].add(logged(run.folder))
        time.sleep(0.01)
    run.fault("slow", 0)
    yield
    trained = statistics.median(max(seen) - min(seen) for seen in steps.values())
    run.note = (
        f"in 30 s {len(steps)} checkpoints, each written for about {30 / len(steps):.1f} s, "
        f"at most {at_once} at once; meanwhile {trained:.0f} of the 8 steps to the next one were trained"
    )


@contextlib.contextmanager
def _clock_jumps(run: _Run) -> Iterator[None]:
    """Forward by 3 hours, back by 6, and to where it was."""
    launcher = run.start(2, steps=10 * STEPS)
    for hours in (3, -3, 0):
        at = logged(run.folder)
        until(lambda: logged(run.folder) > at + 20, launcher)  # noqa: B023 (at once)
        run.fault("clock", 3600 * hours)
        time.sleep(12)  # torchrun's launcher looks at the clock every 5 s
    yield


FAULTS = (_error_in_write, _error_in_sync, _slow_disk, _clock_jumps)
"""Those of faults.c."""
TROUBLES: dict[str, Trouble] = {
    "disk full": _disk_full,
    "read-only": _read_only,
    "EIO in a write": _error_in_write,
    "EIO in a sync for a while, on_failed_checkpoint: continue": _error_in_sync,
    "slow disk (0.5 s more for each sync)": _slow_disk,
    "clock jumps: 3 h forward, 6 h back, 3 h forward": _clock_jumps,
    "slow rank": _slow_rank,
    "port taken": _port_taken,
}


def _markdown(result: dict[str, Any]) -> str:
    lines = [
        *heading("Bad environments", result),
        "    python -m benchmarks.bad_environments --work FOLDER",
        "",
        f"A run of {STEPS} steps on two ranks, a checkpoint every 8 steps. Status 0: it went on to its end by itself.",
        "",
        "| trouble | status | what it said | last complete checkpoint | started again without the trouble | proved |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        again = {None: "", 0: "went on to the end"}.get(row.get("again"), f"status {row.get('again')}")
        cells = row["trouble"], row["ended"], row["said"], row.get("at_checkpoint", ""), again, row["proved"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
