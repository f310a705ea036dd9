"""How fast does ``ppr_dist.prepare`` turn a log into shards, with less memory than the log, and is it linear in rows?

    python -m benchmarks.prepare [--sizes 1000000 10000000 100000000] [--work FOLDER] [--out results.md]

Each size prepares a synthetic log (users and items grow with it: about 20 clicks per user, 20 per item) with its
profiles, DuckDB's memory limited to 0.4 × the log's three int64 columns, but no less than ``--least-memory``; the log
is made first, once, and kept in ``--work``. Beside it what one would write in pandas for the click sequences alone
(sort by user and time, number the items, one list per user, one Parquet file: no profiles, no splits, no checks) where
it fits. Each run is a process of its own. Seconds and peak resident memory are those of the whole process; those of a
process that only imports the same stand beside them. CPU seconds (of all threads) and the machine's load before the run
show how far others were at work. Spill and tables are DuckDB's files at their largest, looked at five times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

CLICKS_PER_USER = 20.3  # of the synthetic log's default lengths
BYTES_PER_ROW = 24
LIMIT = 0.4
IMPORTS = {"ppr_dist": "import ppr_dist.prepare", "pandas": "import pandas"}
PANDAS = """
import sys
import pandas as pd
log = pd.read_parquet(sys.argv[1]).sort_values(["user_id", "timestamp"])
log["item"] = pd.factorize(log.item_id)[0]
log.groupby("user_id")["item"].agg(list).to_frame().to_parquet(sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000], help="rows")
    parser.add_argument("--most-pandas", type=int, default=10_000_000, help="most rows for pandas")
    parser.add_argument("--least-memory", type=int, default=200, help="least memory limit, MB")
    parser.add_argument("--work", type=Path, help="folder for logs and outputs; default: a temporary one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "LOG"), help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]), options.limit)))
        return
    # Not at the top: a child's peak memory is never less than its parent's at the fork, and this imports torch.
    from benchmarks.hardware import hardware

    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        work = options.work or Path(temporary)
        rows = [row for size in sorted(options.sizes) for row in _at(size, work, options)]
    ours = [row for row in rows if row["kind"] == "ppr_dist"]
    result = {"benchmark": "prepare", **hardware(), "rows": rows}
    if len(ours) > 1:
        for name in ("seconds", "cpu_s"):
            per_row = [row[name] / row["rows"] for row in ours]
            result[f"{name}_per_row_largest_over_smallest"] = per_row[-1] / per_row[0]
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _at(size: int, work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Make the log of ``size`` rows where it is not there yet, and measure every kind on it."""
    log = work / f"log-{size}"
    if not log.is_dir():
        counts = ["--users", str(max(1, round(size / CLICKS_PER_USER))), "--items", str(max(32, size // 20))]
        _run("-m", "ppr_dist.data.synthetic", "--out", str(log), *counts)
    limit = max(options.least_memory, round(LIMIT * BYTES_PER_ROW * size / 1e6))
    rows = []
    for kind in ("ppr_dist", "pandas"):
        if kind == "pandas" and size > options.most_pandas:
            continue
        one = ["--one", kind, str(log), "--limit", str(limit)]
        row = json.loads(_run("-m", "benchmarks.prepare", *one).splitlines()[-1])
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def measure(kind: str, log: Path, limit: int) -> dict[str, Any]:
    """Run ``kind`` on the log in a child of this process; report its seconds, peak memory and files."""
    # In a child too: pyarrow would add to the memory of this process, and a child's peak is never below its parent's.
    start = time.perf_counter()
    count = f"{IMPORTS[kind]}; import sys, pyarrow.parquet as pq; print(pq.read_metadata(sys.argv[1]).num_rows)"
    rows = int(_run("-c", count, str(log / "interactions.parquet")))
    start_up, start_up_rss = time.perf_counter() - start, _peak_rss()
    with tempfile.TemporaryDirectory(dir=log.parent) as folder:
        work = Path(folder)
        if kind == "ppr_dist":
            argv = ["-m", "ppr_dist.prepare", "--interactions", str(log / "interactions.parquet")]
            argv += ["--users", str(log / "users.parquet"), "--out", str(work / "out")]
            argv += ["--memory-limit", f"{limit}MB", "--temp-dir", str(work / "temp")]
        else:
            argv = ["-c", PANDAS, str(log / "interactions.parquet"), str(work / "out.parquet")]
        largest = {"spill": 0, "tables": 0}
        done = threading.Event()
        watch = threading.Thread(target=_watch, args=(work / "temp", largest, done))
        watch.start()
        load, cpu, start = os.getloadavg()[0], _cpu_seconds(), time.perf_counter()
        try:
            _run(*argv)
        finally:
            seconds = time.perf_counter() - start
            done.set()
            watch.join()
        output = _size(work / "out") + _size(work / "out.parquet")
    return {
        "kind": kind,
        "rows": rows,
        "log_bytes": BYTES_PER_ROW * rows,
        "log_file_bytes": (log / "interactions.parquet").stat().st_size,
        "memory_limit_bytes": limit * 1_000_000 if kind == "ppr_dist" else None,
        "seconds": seconds,
        "cpu_s": _cpu_seconds() - cpu,
        "load_before": load,
        "rows_per_s": rows / seconds,
        "peak_rss_bytes": _peak_rss(),
        "start_up_s": start_up,
        "start_up_rss_bytes": start_up_rss,
        "largest_spill_bytes": largest["spill"],
        "largest_tables_bytes": largest["tables"],
        "output_bytes": output,
    }


def _peak_rss() -> int:
    """Return the most that any child had resident so far; a run's own start-up is part of it."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(temp: Path, largest: dict[str, int], done: threading.Event) -> None:
    while not done.wait(0.2):
        for name, pattern in (("spill", "*/spill"), ("tables", "*/tables.duckdb")):
            largest[name] = max(largest[name], sum(_size(path) for path in temp.glob(pattern)))


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 where it is gone."""
    total = 0
    for file in [path, *path.rglob("*")]:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # DuckDB removes a spill file while we look
            continue
    return total


def _run(*argv: str) -> str:
    return subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.PIPE, text=True).stdout


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    from benchmarks.hardware import heading

    sizes = " ".join(str(size) for size in options.sizes)
    lines = [
        *heading("Preparing a log: speed and memory by rows", result),
        f"    python -m benchmarks.prepare --sizes {sizes}",
        "",
        "| rows | kind | seconds (imports) | CPU s | load before | k rows/s | log in memory, GB | limit, GB | "
        "peak RSS, GB (imports) | spill, GB | tables, GB | output, GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        ours = r["kind"] == "ppr_dist"
        values = [f"{r['rows']:,}", r["kind"], f"{r['seconds']:.1f} ({r['start_up_s']:.1f})"]
        values += [f"{r['cpu_s']:.1f}", f"{r['load_before']:.1f}", f"{r['rows_per_s'] / 1e3:.0f}"]
        values += [_gigabytes(r["log_bytes"]), _gigabytes(r["memory_limit_bytes"]) if ours else "none"]
        values += [f"{_gigabytes(r['peak_rss_bytes'])} ({_gigabytes(r['start_up_rss_bytes'])})"]
        values += [_gigabytes(r[f"largest_{name}_bytes"]) if ours else "none" for name in ("spill", "tables")]
        values += [_gigabytes(r["output_bytes"])]
        lines.append("| " + " | ".join(values) + " |")
    ratio = result.get("seconds_per_row_largest_over_smallest")
    if ratio:
        cpu = result["cpu_s_per_row_largest_over_smallest"]
        lines += ["", f"Seconds per row of ppr_dist, largest over smallest log: {ratio:.2f}; CPU seconds: {cpu:.2f}."]
    return "\n".join(lines) + "\n"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f}"


if __name__ == "__main__":
    main()
