"""The real commands with an item table of float16 weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.commands import succeed
from tests.integration.conftest import TINY
from tests.integration.test_methods import ITEM, tensors

HALF = (*TINY, "--tables.precision", "float16")


def test_from_pre_training_to_recommendations(catalogue: Path, raw: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    succeed("pretrain", "--data", catalogue, "--run-dir", first, *HALF, world_size=2)
    succeed(
        "tune", "--data", catalogue, "--init", first, "--method", "ppr-full", "--run-dir", second, *HALF, world_size=2
    )
    for run in (first, second):
        assert tensors(run)[ITEM].dtype == np.float16
        assert {t["name"]: t["dtype"] for t in json.loads((run / "plan.json").read_text())["tables"]}["item"] == "fp16"
    said = succeed("evaluate", "--run-dir", second, "--task", "few-shot", "--protocol", "full").out[0].splitlines()[-1]
    assert 0 < json.loads(said)["auc"] < 1
    flags = ("--users", raw / "users.parquet", "--interactions", raw / "interactions.parquet", "--k", 5)
    succeed("recommend", "--run-dir", second, *flags, "--out", tmp_path / "top.parquet", world_size=2)
    top = pq.read_table(tmp_path / "top.parquet")
    assert top.num_rows == 5 * pq.read_metadata(raw / "users.parquet").num_rows
    assert np.isfinite(top["score"].to_numpy()).all()
