"""How fast does ``recommend`` serve millions of users from raw files, and does its memory stay flat in their number?

    python -m benchmarks.recommend [--sizes 1000000 10000000] [--items 10000] [--work FOLDER] [--out results.md]

User and item ids are strings of 36 characters; each user has 3 clicks. The model (d 16, one layer, length 10) is
trained for a few steps on another log of the same items: it is there to be served. Each size is one process without
torchrun, from raw Parquet files to the finished data set, top 10 of the whole catalogue. Peak memory is that process's;
DuckDB, which reads the raw files, has its default limit. Reading is the time until the users lie on disk in the
catalogue's indices. CPU seconds, of all threads, and the load before say how far others were at work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLICKS = 3
K = 10
TINY = (
    *("--model.dim", "16", "--sasrec.layers", "1", "--sasrec.heads", "1", "--model.max_length", "10"),
    *("--train.max_steps", "20", "--logging.progress", "false"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000], help="users")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder for files, kept; default: a temporary one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_measure(options.one, options.work)))
        return
    from benchmarks.hardware import hardware

    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as temporary:
        work = options.work or Path(temporary)
        _train(work, options.items)
        rows = []
        for size in options.sizes:
            _users(work, size, options.items)
            threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
            argv = ["-m", "benchmarks.recommend", "--one", str(size), "--work", str(work)]
            rows.append(json.loads(_run(*argv, environment=threads).splitlines()[-1]))
            print(rows[-1], file=sys.stderr, flush=True)
    result = {"benchmark": "recommend", **hardware(), "items": options.items, "threads": options.threads, "rows": rows}
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _train(work: Path, items: int) -> None:
    """Prepare a log of 20,000 users over all items and train on it."""
    import duckdb

    if (work / "run").is_dir():
        return
    clicks = (
        f"SELECT {_id('user', 'n % 20000')} AS user_id, {_id('item', f'hash(n) % {items}')} AS item_id, n AS position"
    )
    duckdb.execute(f"COPY ({clicks} FROM range(400000) t(n)) TO '{work / 'log.parquet'}' (FORMAT parquet)")
    _run("-m", "ppr_dist.prepare", "--interactions", str(work / "log.parquet"), "--out", str(work / "data"))
    _run("-m", "ppr_dist.pretrain", "--data", str(work / "data"), "--run-dir", str(work / "run"), *TINY)


def _users(work: Path, users: int, items: int) -> None:
    """Write the raw files of ``users`` users, once."""
    import duckdb

    if (work / f"clicks-{users}.parquet").is_file():
        return
    profiles = f"SELECT {_id('new', 'n')} AS user_id FROM range({users}) t(n)"
    duckdb.execute(f"COPY ({profiles}) TO '{work / f'users-{users}.parquet'}' (FORMAT parquet)")
    # In the order of time, so that a user's clicks lie far apart.
    clicks = (
        f"SELECT {_id('new', f'(n * 7919) % {users}')} AS user_id, {_id('item', f'hash(n) % {items}')} AS item_id,"
        f" n AS position FROM range({CLICKS * users}) t(n)"
    )
    duckdb.execute(f"COPY ({clicks}) TO '{work / f'clicks-{users}.parquet'}' (FORMAT parquet)")


def _id(kind: str, number: str) -> str:
    """SQL of 36 characters: 4 of the kind, 32 of a hash."""
    return f"rpad('{kind}', 4, '-') || md5('{kind}' || ({number}))"


def _measure(users: int, work: Path) -> dict[str, Any]:
    from benchmarks.hardware import reset_peak_rss
    from ppr_dist import recommend
    from ppr_dist.data.prepare import raw_users
    from ppr_dist.tracking.machine import peak_rss, resident

    read = raw_users.load_raw_users
    seconds = {}

    def timed(*given: Any) -> Any:
        start = time.perf_counter()
        raw = read(*given)
        seconds["read_s"] = time.perf_counter() - start
        seconds["read_peak_bytes"] = peak_rss()
        reset_peak_rss()
        return raw

    raw_users.load_raw_users = timed  # type: ignore[assignment]
    out = work / f"recommendations-{users}"
    argv = ["--run-dir", str(work / "run"), "--users", str(work / f"users-{users}.parquet"), "--k", str(K)]
    argv += ["--interactions", str(work / f"clicks-{users}.parquet"), "--out", str(out)]
    before, load, start, cpu = resident(), os.getloadavg()[0], time.perf_counter(), time.process_time()
    recommend.main(argv)
    total = time.perf_counter() - start
    return {
        "users": users,
        "seconds": total,
        "users_per_s": users / total,
        "cpu_s": time.process_time() - cpu,
        "score_s": total - seconds["read_s"],
        **seconds,
        "score_peak_bytes": peak_rss(),
        "imports_bytes": before,
        "load_before": load,
        "output_files": len(list(out.iterdir())),
        "output_bytes": sum(file.stat().st_size for file in out.iterdir()),
    }


def _run(*argv: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *argv], check=True, stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {})
    )
    return done.stdout


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    from benchmarks.hardware import heading

    sizes = " ".join(str(size) for size in options.sizes)
    note = f"{options.threads} thread(s) for torch; {result['items']:,} items."
    lines = [
        *heading("recommend: users per second and memory by users", result, note),
        f"    python -m benchmarks.recommend --sizes {sizes} --threads {options.threads}",
        "",
        "| users | seconds | CPU s | users/s | reading, s | scoring and writing, s | peak while reading, GB "
        "| peak while scoring, GB | of it imports, GB | output, GB (files) | load before |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(result["rows"], key=lambda row: row["users"]):
        values = [f"{r['users']:,}", f"{r['seconds']:.0f}", f"{r['cpu_s']:.0f}", f"{r['users_per_s']:,.0f}"]
        values += [f"{r['read_s']:.0f}", f"{r['score_s']:.0f}"]
        values += [f"{r[name] / 1e9:.2f}" for name in ("read_peak_bytes", "score_peak_bytes", "imports_bytes")]
        values += [f"{r['output_bytes'] / 1e9:.2f} ({r['output_files']})", f"{r['load_before']:.1f}"]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
