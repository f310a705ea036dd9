"""Does a run survive anything? Kills it at random moments, goes on on other numbers of ranks, proves what was trained.

    python -m benchmarks.survival --work FOLDER [--kills 100] [--minutes 90] [--out results.md]

One run that saves every few steps is killed again and again: each resume is the next victim. Fault, moment and the
number of ranks to go on with (1 to 4) are drawn from a seed. After each kill ``ppr_dist.verification`` proves from the
files alone that the checkpoints are whole and every user of the epochs trained was consumed exactly once; a kill counts
as recovered when the run, started again, has trained beyond where it stood. Kills already in ``--work`` are kept, so
that it can be stopped and started like the run itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hardware import hardware, heading
from ppr_dist.checkpoint.position import checkpoints, read_position
from ppr_dist.files import read_lines
from ppr_dist.verification import check_chain, check_trained, read_stream

FAULTS = ("one rank", "all ranks", "the launcher", "inside a checkpoint write", "before the rename", "while loading")
CONFIG = """
model: {dim: 32, max_length: 20}
sasrec: {layers: 1}
train: {global_batch_size: 64, epochs: 1000000, checkpoint_every: 8, log_every: 1}
logging: {progress: false}
"""
PATIENCE = 300.0
"""Seconds after which a run that has not come to the moment of its fault counts as lost."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--minutes", type=float, default=90, help="stop after so many; what is left is for the next time"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work, deadline = options.work.resolve(), time.monotonic() + 60 * options.minutes
    make_data(work)
    log = work / "kills.jsonl"
    done = list(read_lines(log)) if log.is_file() else []
    for number in range(len(done), options.kills):
        if time.monotonic() > deadline:
            break
        row = _kill(work, number, random.Random(f"{options.seed} {number}"))
        done.append(row)
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)
    if done and len(done) == options.kills:
        done.append(_go_on(work))  # what the last kill comes to
    result = {"benchmark": "survival", **hardware(), "kills": done}
    if options.out and len(done) > options.kills:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def make_data(work: Path) -> None:
    if (work / "data").is_dir():
        return
    files = ("--interactions", str(work / "log/interactions.parquet"), "--users", str(work / "log/users.parquet"))
    for module, *arguments in (
        ("ppr_dist.data.synthetic", "--out", str(work / "log"), "--users", "4000", "--items", "100000"),
        ("ppr_dist.prepare", *files, "--out", str(work / "data")),
    ):
        subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.DEVNULL)
    (work / "config.yaml").write_text(CONFIG)


def _kill(work: Path, number: int, draw: random.Random) -> dict[str, Any]:
    """Start the run where it stands, bring the fault about, prove what the files hold."""
    run, fault, ranks = work / "run", draw.choice(FAULTS), draw.choice((1, 2, 3, 4))
    before = step_of_latest(run)
    if not before and fault == "while loading":
        fault = "all ranks"  # there is nothing to load yet
    begun, began = time.monotonic(), time.time()
    launcher = _start(work, run, ranks)
    row: dict[str, Any] = {"number": number, "fault": fault, "ranks": ranks, "from_step": before, "recovered_s": None}
    try:
        if fault == "while loading":
            until(lambda: _reads(launcher, run), launcher)
        else:
            until(lambda: logged(run, since=began) > before, launcher)
            row["recovered_s"] = time.monotonic() - begun
            _moment(fault, run, draw, launcher)
        row["at_step"] = max(before, logged(run))
        _strike(fault, launcher, draw)
    finally:
        _end(launcher)
    row |= {"checkpoint": step_of_latest(run), "trained": prove(work, run) if step_of_latest(run) else "nothing yet"}
    return row


def _go_on(work: Path) -> dict[str, Any]:
    """Start the run a last time and end it as a scheduler would."""
    run, begun = work / "run", time.monotonic()
    before, began, launcher = step_of_latest(run), time.time(), _start(work, run, 2)
    try:
        until(lambda: logged(run, since=began) > before, launcher)
        recovered = time.monotonic() - begun
    finally:
        launcher.terminate()
        _end(launcher)
    return {"fault": "SIGTERM", "recovered_s": recovered, "trained": prove(work, run)}


def _start(work: Path, run: Path, ranks: int) -> subprocess.Popen[bytes]:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    words = ("--config", str(work / "config.yaml"), "--data", str(work / "data"), "--run-dir", str(run), "--resume")
    return subprocess.Popen(
        [*launcher, "-m", "ppr_dist.pretrain", *words],
        stdout=(work / "out.txt").open("ab"),
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,
    )


def until(seen: Callable[[], bool], launcher: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not seen():
        if launcher.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the run ended by itself or hangs ({launcher.poll()}); see out.txt and the last kill")
        time.sleep(0.0005)


def _moment(fault: str, run: Path, draw: random.Random, launcher: subprocess.Popen[bytes]) -> None:
    """Wait until it is time."""
    if fault == "inside a checkpoint write":
        until(lambda: any((run / "checkpoints").glob(".step-*/*.distcp")), launcher)
    elif fault == "before the rename":
        until(lambda: any((run / "checkpoints").glob(".step-*/checksums.json")), launcher)
    else:
        time.sleep(draw.uniform(0.0, 2.0))


def _strike(fault: str, launcher: subprocess.Popen[bytes], draw: random.Random) -> None:
    ranks = children(launcher.pid)
    victims = {"one rank": [draw.choice(ranks)] if ranks else [], "the launcher": [launcher.pid]}.get(fault, ranks)
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """Until nothing of the run is alive: what a launcher does by itself after a rank's end, given time."""
    pids = [launcher.pid, *children(launcher.pid)]
    try:
        launcher.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        raise SystemExit("the launcher did not end") from None
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/status").is_file() for pid in pids):
        if time.monotonic() > deadline:
            raise SystemExit("a rank outlived its launcher")
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Of all threads of a process."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def _reads(launcher: subprocess.Popen[bytes], run: Path) -> bool:
    """Whether a rank has a file of a checkpoint open."""
    for rank in children(launcher.pid):
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{rank}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(file).startswith(f"{run}/checkpoints/step-"):
                        return True
    return False


def step_of_latest(run: Path) -> int:
    """Of the latest checkpoint."""
    found = checkpoints(run)
    return read_position(found[-1]).step if found else 0


def logged(run: Path, since: float = 0.0) -> int:
    """The last whole line's step in metrics.jsonl; 0 until a start later than ``since`` has written to it.

    What it writes first leaves out all after its checkpoint.
    """
    path = run / "metrics.jsonl"
    try:
        if path.stat().st_mtime < since:
            return 0
        lines = path.read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines[-3:-1]), default=0)
    except (OSError, ValueError):
        return 0


def prove(work: Path, run: Path) -> str:
    found = checkpoints(run)
    check_chain(found)
    position = read_position(found[-1])
    return check_trained(position, read_stream(work / "data", position))


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    *kills, last = result["kills"]
    lines = [
        *heading("Survival: killed at random moments, gone on with on other numbers of ranks", result),
        f"    python -m benchmarks.survival --work FOLDER --kills {options.kills} --seed {options.seed}",
        "",
        "One run, a checkpoint every 8 steps, written while it trains; on 1 to 4 ranks in turn. A kill is recovered",
        "when a start after it trained on from the last checkpoint; after each the files prove that every user of the",
        "epochs trained was consumed exactly once. Seconds to recover: from the start of the launcher to the first",
        "step, imports included. Steps done again: those trained after the last checkpoint.",
        "",
        "| fault | times | recovered | seconds to recover, median (most) | steps done again, median (most) |",
        "|---|---|---|---|---|",
    ]
    starts = [row["recovered_s"] for row in [*kills, last]]
    for fault in [*FAULTS, "all"]:
        mine = [n for n, row in enumerate(kills) if fault in ("all", row["fault"])]
        later = (next(filter(None, starts[n + 1 :]), None) for n in mine)
        seconds = [each for each in later if each is not None]
        again = [kills[n]["at_step"] - kills[n]["checkpoint"] for n in mine]
        if mine:
            times = f"{statistics.median(seconds):.1f} ({max(seconds):.1f})" if seconds else ""
            steps = f"{statistics.median(again):.0f} ({max(again)})"
            lines.append(f"| {fault} | {len(mine)} | {len(seconds)} | {times} | {steps} |")
    lines += ["", f"At the end: {last['trained']}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
