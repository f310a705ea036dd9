"""Jobs that leave a result in a folder and are not done again, over the cores of a machine.

A job leaves ``FOLDER/result.json`` (and, where it ranks users, ``ranks.npz``, which stays on the machine). Starting a
process takes 20 seconds of a core, so each worker process does many jobs, and one worker is the process itself.
"""

from __future__ import annotations

import abc
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from tqdm import tqdm

from benchmarks.hardware import reset_peak_rss
from ppr_dist.cli import end_with_parent
from ppr_dist.files import replace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(abc.ABC):
    folder: Path

    @property
    @abc.abstractmethod
    def asked(self) -> dict[str, Any]:
        """What decides the result, as the result has it under ``options``."""

    @abc.abstractmethod
    def work(self) -> dict[str, Any]:
        """Return the result but for ``options``; in a worker process."""

    @property
    def done(self) -> bool:
        """Whether there is a result, of these options: a longer search may have chosen others."""
        return (self.folder / "result.json").is_file() and self.result()["options"] == self.asked

    def result(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "result.json").read_text()))


def run(jobs: Sequence[Job], what: str, workers: int) -> list[dict[str, Any]]:
    """Results of ``jobs``, those that are not there being made, with progress and the time that is left."""
    left = [job for job in jobs if not job.done]
    if workers == 1:
        _alone()
        for job in tqdm(left, desc=what, total=len(jobs), initial=len(jobs) - len(left), unit="run"):
            _do(job)
    elif left:
        pool = _pool(workers)
        waiting = [pool.submit(_do, job) for job in left]
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
    return concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """In a worker process."""
    end_with_parent()
    _alone()


def _alone() -> None:
    """One thread in this process, and imports once, so that no job is charged for them."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import ppr_dist.evaluation
    import ppr_dist.training  # noqa: F401

    torch.set_num_threads(1)


def _do(job: Job) -> None:
    """Do a job, its output in ``FOLDER/log.txt``."""
    shutil.rmtree(job.folder, ignore_errors=True)  # of one that was interrupted
    job.folder.mkdir(parents=True)
    before, errors = sys.stdout, sys.stderr
    started, core = time.perf_counter(), time.process_time()
    with (job.folder / "log.txt").open("w") as log:
        sys.stdout = sys.stderr = log
        try:
            result = job.work()
        finally:
            sys.stdout, sys.stderr = before, errors
    result |= {
        "options": job.asked,
        "seconds": time.perf_counter() - started,
        "core_seconds": time.process_time() - core,
    }
    replace(job.folder / "result.json", json.dumps(result) + "\n")


@contextlib.contextmanager
def measured() -> Iterator[dict[str, float]]:
    """A dict that has, once the block has ended, its CPU seconds, and the bytes of memory that it took at most beside
    what the process held before.
    """
    from ppr_dist.tracking.machine import peak_rss, resident

    found: dict[str, float] = {}
    reset_peak_rss()
    held, began = resident(), time.process_time()
    yield found
    found |= {"cpu_seconds": time.process_time() - began, "peak_bytes": peak_rss() - held}


def trained(run: Path, log: Path) -> dict[str, Any]:
    """What a run says of itself: validations, best epoch, trained and all parameters, bytes that a checkpoint takes."""
    from ppr_dist.checkpoint.position import chosen

    sys.stdout.flush()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {}
    if best := chosen(run).best:
        curve = [r[f"validation_{best.metric}"] for r in records if f"validation_{best.metric}" in r]
        found |= {"validation": max(curve), "epochs": int(np.argmax(curve)) + 1, "curve": curve, "metric": best.metric}
    if said := re.search(r"([\d,]+) of ([\d,]+) parameters", log.read_text()):
        found["trainable"], found["parameters"] = (int(n.replace(",", "")) for n in said.groups())
    found["saved_bytes"] = sum(f.stat().st_size for f in chosen(run).path.rglob("*") if f.is_file())
    return found


def ranks_of(predictions: Path) -> dict[str, npt.NDArray[Any]]:
    """What ``evaluate --predictions`` wrote, whose folder goes: rank, candidates, user_id, position by name."""
    table = pq.read_table(predictions)
    shutil.rmtree(predictions)
    return {name: table.column(name).to_numpy() for name in ("rank", "candidates", "user_id", "position")}


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Options of all ``parts``, the later ones counting."""
    out: dict[str, Any] = {}
    for part in parts:
        for section, value in part.items():
            out[section] = {**out.get(section, {}), **value} if isinstance(value, Mapping) else value
    return out
