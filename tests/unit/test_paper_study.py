"""From ranks to sums: metrics are evaluate's, and runs that were not measured alike are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.paper.jobs import Job
from benchmarks.paper.methods import METHODS as ROWS
from benchmarks.paper.study import METRICS, collect
from benchmarks.statistics import metric_of
from ppr_dist.errors import UserError
from ppr_dist.metrics import METRICS as THEIRS
from ppr_dist.metrics.base import Ranked

USERS = np.repeat([7, 3, 9], [3, 1, 4])
POSITIONS = np.concatenate([np.arange(3), np.arange(1), np.arange(4)])


def job(folder: Path, ranks: Any, method: str = "fine-tune", **passport: Any) -> Job:
    folder.mkdir(parents=True)
    line = {"protocol": "full", "passport": {"fold": "1 of 5", "seeds": {"tune": 0}} | passport}
    (folder / "result.json").write_text(json.dumps({"options": {}, "lines": [line]}))
    candidates = np.full(len(ranks), 200)
    np.savez(
        folder / "ranks.npz",
        user_id=USERS,
        position=POSITIONS,
        **{"full rank": np.array(ranks), "full candidates": candidates},
    )
    return Job(
        folder=folder, config=folder, data=folder, init=folder, method=ROWS[method], options={}, task="joint", test=True
    )


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_evaluate_s(name: str) -> None:
    rank = np.random.default_rng(0).integers(1, 101, 50)
    ranked = Ranked(rank=torch.from_numpy(rank), candidates=torch.full((50,), 100), items=300)
    theirs = THEIRS[name].finish(THEIRS[name].sums(ranked), 50)
    found = metric_of(rank, np.full(50, 100), name)
    assert found.mean() == pytest.approx(theirs)


def test_instances_of_a_task_over_folds_and_seeds(tmp_path: Path) -> None:
    ranks = {"a": [1, 1, 6, 1, 1, 6, 6, 6], "b": [6, 1, 1, 6, 1, 1, 1, 1]}
    done = {
        fold: {"fine-tune": [job(tmp_path / f"{fold}{seed}", ranks[seed], fold=f"{fold} of 5") for seed in "ab"]}
        for fold in (1, 2)
    }
    means = {
        task: collect(done, task, "full")["hit@5"].means["fine-tune"] for task in ("few-shot", "zero-shot", "joint")
    }
    hits = (np.array([ranks["a"], ranks["b"]]) <= 5).mean(axis=0)
    assert means["few-shot"] == pytest.approx(hits[POSITIONS > 0].mean())
    assert means["zero-shot"] == pytest.approx(hits[POSITIONS == 0].mean())
    assert means["joint"] == pytest.approx(hits.mean())
    assert collect(done, "few-shot", "full")["auc"].users == 4, "a user with one click has no few-shot instance"


def test_unlike_runs_are_refused(tmp_path: Path) -> None:
    rank = np.ones(8, np.int64)
    same, seed, other = (
        job(tmp_path / name, rank, **passport)
        for name, passport in {"a": {}, "b": {"seeds": {"tune": 4}}, "c": {"target_time": True}}.items()
    )
    collect({1: {"fine-tune": [same, seed]}}, "joint", "full")
    with pytest.raises(UserError, match="differ in target_time"):
        collect({1: {"fine-tune": [same, other]}}, "joint", "full")
