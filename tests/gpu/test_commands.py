"""The commands on a GPU, end to end, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ppr_dist.data.synthetic.catalogue import SyntheticConfig, generate
from ppr_dist.files import read_lines
from tests.integration.conftest import TINY

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


def _run(module: str, *argv: Any, cwd: Path) -> str:
    command = [sys.executable, "-m", f"ppr_dist.{module}", *map(str, argv)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, f"{module} {argv}: {done.returncode}\n{done.stderr}"
    return done.stdout


def _metrics(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(run / "metrics.jsonl") if "loss" in line]


@pytest.mark.timeout(900)
def test_prepare_pretrain_tune_evaluate_recommend(tmp_path: Path) -> None:
    generate(SyntheticConfig(users=240, items=400, max_clicks=30, topics=8, cold_fraction=0.5), tmp_path / "raw")
    raw = ("--interactions", tmp_path / "raw/interactions.parquet", "--users", tmp_path / "raw/users.parquet")
    small = ("--users_per_member", 16, "--members_per_shard", 2, "--buckets.age", 5)
    _run("prepare", *raw, "--out", "data", *small, cwd=tmp_path)

    data = ("--data", "data")
    often = ("--train.log_every", 1, "--logging.progress", "false")
    precise = ("--train.precision", "bfloat16", "--tables.optimizer", "adam", "--tables.lr", 1e-2)
    _run("pretrain", *data, "--run-dir", "base", *TINY, *often, *precise, "--stream.workers", 1, cwd=tmp_path)
    _run(
        *("tune", *data, "--init", "base", "--method", "ppr-full", "--run-dir", "tuned"),
        *(*TINY, *often, *precise[2:], "--profile"),
        cwd=tmp_path,
    )
    for file in ("rank-0.json.gz", "rank-0-operators.txt", "rank-0-memory.pickle"):
        assert (tmp_path / "tuned" / "profile" / file).stat().st_size > 1000
    # One more epoch, from the checkpoint.
    more = tuple(2 if before == "--train.epochs" else value for before, value in zip(("", *TINY), TINY, strict=False))
    before = len(_metrics(tmp_path / "base"))
    _run("pretrain", *data, "--run-dir", "base", "--resume", *more, *often, *precise, cwd=tmp_path)
    steps = _metrics(tmp_path / "base")
    assert len(steps) == 2 * before
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(line["peak_gpu_gb"] >= line["gpu_gb"] > 0 for line in steps)
    assert all(line["model_tflops_per_s"] > 0 for line in steps)

    out = _run("evaluate", "--run-dir", "tuned", *data, "--task", "joint", "--protocol", "full", cwd=tmp_path)
    found = json.loads(out.splitlines()[-1])
    assert found["instances"] > 100
    assert 0.5 < found["auc"] <= 1
    _run("recommend", "--run-dir", "tuned", *raw, "--k", 5, "--out", "best", cwd=tmp_path)
    assert pq.read_table(tmp_path / "best").num_rows == 5 * pq.read_table(tmp_path / "raw/users.parquet").num_rows
