"""One tuning with its evaluation, and many of them over the cores of a machine.

A job leaves ``FOLDER/result.json`` (and ``ranks.npz``, the test users' ranks, which stay on the machine) and is not
done again. Starting a process takes 20 seconds of a core, so each worker process does many jobs.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from benchmarks.paper.methods import Method, merged
from ppr_dist.files import replace

PROTOCOLS = ("sampled-99", "full")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    folder: Path
    config: Path
    """Settings of tuning from which trials depart."""
    data: Path
    init: Path
    method: Method
    options: dict[str, Any]
    """Of ``tune``, in addition."""
    task: str = "joint"
    """What is asked of the test users."""
    test: bool
    """Whether test users are ranked; a trial only looks at validation users."""

    @property
    def asked(self) -> dict[str, Any]:
        """Options of ``tune``, as a result has them."""
        return merged(self.options, self.method.options)

    @property
    def done(self) -> bool:
        """Whether there is a result, of these options: a longer search may have chosen others."""
        return (self.folder / "result.json").is_file() and self.result()["options"] == self.asked

    def result(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "result.json").read_text()))


def run(jobs: Sequence[Job], what: str, workers: int) -> list[dict[str, Any]]:
    """Results of ``jobs``, those that are not there being made, with progress and the time that is left."""
    left = [job for job in jobs if not job.done]
    if left:
        pool = _pool(workers)
        waiting = [pool.submit(work, job) for job in left]
        done = concurrent.futures.as_completed(waiting)
        try:
            for each in tqdm(done, desc=what, total=len(jobs), initial=len(jobs) - len(left), unit="run"):
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [job.result() for job in jobs]


@functools.cache
def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_alone)


def _alone() -> None:
    """One thread for each worker process."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def work(job: Job) -> None:
    """Do a job, its output in ``FOLDER/log.txt``."""
    shutil.rmtree(job.folder, ignore_errors=True)  # of one that was interrupted
    job.folder.mkdir(parents=True)
    before, errors = sys.stdout, sys.stderr
    with (job.folder / "log.txt").open("w") as log:
        sys.stdout = sys.stderr = log
        try:
            result = _work(job)
        finally:
            sys.stdout, sys.stderr = before, errors
    replace(job.folder / "result.json", json.dumps(result) + "\n")


def _work(job: Job) -> dict[str, Any]:
    from ppr_dist.library import tune

    started, core, run = time.perf_counter(), time.process_time(), job.init
    result: dict[str, Any] = {"options": job.asked}
    if job.method.tune:
        run = job.folder / "run"
        quiet = {"logging": {"progress": False, "parts_every": 0}}
        options = merged(job.asked, quiet)
        tune(config=job.config, data=job.data, init=job.init, method=job.method.tune, run_dir=run, **options)
        metric = options["train"]["best_metric"]
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curve = [r[f"validation_{metric}"] for r in records if f"validation_{metric}" in r]
        result |= {"validation": max(curve), "epochs": int(np.argmax(curve)) + 1, "curve": curve, "metric": metric}
        sys.stdout.flush()
        if said := re.search(r"([\d,]+) of ([\d,]+) parameters", (job.folder / "log.txt").read_text()):
            result["trainable"], result["parameters"] = (int(n.replace(",", "")) for n in said.groups())
    if job.test:
        result["lines"] = _evaluate(job, run)
    shutil.rmtree(job.folder / "run" / "checkpoints", ignore_errors=True)
    return result | {"seconds": time.perf_counter() - started, "core_seconds": time.process_time() - core}


def _evaluate(job: Job, run: Path) -> list[dict[str, Any]]:
    """Lines of ``evaluate``; the ranks of rankings go to ranks.npz, in the order of (user index, position)."""
    from ppr_dist.library import evaluate

    asked = {"run_dir": run, "data": job.data, "progress": False, **job.method.evaluate}
    if job.task == "attribute":
        return evaluate(task=["attribute"], **asked)
    lines: list[dict[str, Any]] = []
    kept: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        out = job.folder / f"{protocol}.predictions"
        lines += evaluate(task=[job.task], protocol=protocol, predictions=out, **asked)
        table = pq.read_table(out)
        kept |= {f"{protocol} {name}": table.column(name).to_numpy() for name in ("rank", "candidates")}
        kept |= {name: table.column(name).to_numpy() for name in ("user_id", "position")}
        shutil.rmtree(out)
    np.savez(job.folder / "ranks.npz", **kept)
    return lines
