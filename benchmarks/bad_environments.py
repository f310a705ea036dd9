"""What does a run do where its environment fails it?

    python -m benchmarks.bad_environments --work FOLDER [--out results.md]

Each row is a run of two ranks, brought into trouble once it trains, what it said and how it ended; then the trouble is
taken away and the run is started again with --resume, on one rank, to its end. ``ppr_dist.verification`` proves from
the files that every user was trained exactly once an epoch. Disks are a tmpfs of 64 MB, which needs root: without,
those rows say so. Not tried: a clock that jumps, because it would be everybody's; all limits in the program are of the
monotonic clock.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
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
    options = parser.parse_args()
    work = options.work.resolve()
    make_data(work)
    rows = []
    for name, trouble in TROUBLES.items():
        row = _try(work, name, trouble)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    result = {"benchmark": "bad_environments", **hardware(), "rows": rows}
    if options.out:
        options.out.write_text(_markdown(result))
    print(json.dumps(result))


Trouble = Callable[["_Run"], "contextlib.AbstractContextManager[None]"]


class _Run:
    """A run's folder, on a disk of its own where that is possible."""

    def __init__(self, work: Path, name: str) -> None:
        self.work, self.folder = work, work / f"run {name}".replace(" ", "-")
        self.process: subprocess.Popen[bytes] | None = None
        self.out = work / f"{self.folder.name}.txt"
        self.folder.mkdir()

    def start(self, ranks: int, *words: str) -> subprocess.Popen[bytes]:
        launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks))
        options = ("--config", "config.yaml", "--data", "data", "--run-dir", str(self.folder), "--resume")
        limit = ("--train.max_steps", str(STEPS))
        self.process = process = subprocess.Popen(
            [*launcher, *(words or ("--standalone",)), "-m", "ppr_dist.pretrain", *options, *limit],
            cwd=self.work,
            stdout=self.out.open("ab"),
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.getcwd()},
            start_new_session=True,
        )
        return process


def _try(work: Path, name: str, trouble: Trouble) -> dict[str, Any]:
    run = _Run(work, name)
    row: dict[str, Any] = {"trouble": name, "ended": None, "said": "", "proved": ""}
    disk = name in ("disk full", "read-only")
    if disk and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", run.folder], check=False).returncode:
        return row | {"said": "not tried: mounting a tmpfs needs root"}
    try:
        with trouble(run):
            assert run.process is not None
            row["ended"] = run.process.wait(180)
            row["at_checkpoint"] = step_of_latest(run.folder)
            said = re.findall(r"^ppr_dist: error.*|^.*Error: .*address already in use.*", run.out.read_text(), re.M)
            row["said"] = said[0].replace(str(run.folder), "RUN") if said else ""
        if row["ended"]:
            row["again"] = run.start(1).wait(180)
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


TROUBLES: dict[str, Trouble] = {
    "disk full": _disk_full,
    "read-only": _read_only,
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
