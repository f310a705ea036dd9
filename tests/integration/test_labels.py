"""Several label spaces trained together by the real commands: what clicks show is predicted, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from tests.commands import succeed
from tests.integration.test_attribute import TRAIN
from tests.oracle import tensors

HEADS = "dense.parameter.heads."
USERS, ITEMS, CLICKS, LABELS = 900, 60, 8, 120


def prepared(folder: Path) -> Path:
    """Users of taste "a" click the first half of the items alone and have orders of the first half of the labels.

    ``noise`` is the taste of somebody else, ``lots`` are any labels; each a space of its own.
    """
    rng = np.random.default_rng(0)
    likes = rng.random(USERS) < 0.3
    items = rng.integers(0, ITEMS // 2, (USERS, CLICKS)) + ~likes[:, None] * (ITEMS // 2)
    user = np.repeat(np.arange(USERS), CLICKS)
    log = {"user_id": user, "item_id": items.ravel(), "timestamp": np.tile(np.arange(CLICKS), USERS)}
    pq.write_table(pa.table(log), folder / "interactions.parquet")
    three = np.repeat(np.arange(USERS), 3)
    spaces = {
        "taste": (np.arange(USERS), np.where(likes, "a", "b")),
        "noise": (np.arange(USERS), np.where(rng.permutation(likes), "a", "b")),
        "orders": (three, rng.integers(0, LABELS // 2, 3 * USERS) + ~likes[three] * (LABELS // 2)),
        "lots": (three, rng.integers(0, LABELS, 3 * USERS)),
    }
    for name, (users, labels) in spaces.items():
        pq.write_table(pa.table({"user_id": users, "label": labels}), folder / f"{name}.parquet")
    config = PrepareConfig(cold_threshold=5, simulate_cold=0.5, tune_test_fraction=0.6, tune_validation_fraction=0.5)
    files = {name: str(folder / f"{name}.parquet") for name in spaces}
    prepare(str(folder / "interactions.parquet"), None, folder / "data", config, labels=files)
    return folder / "data"


def test_each_space_is_predicted_as_far_as_clicks_show_it(tmp_path: Path) -> None:
    data, run, tuned = prepared(tmp_path), tmp_path / "run", tmp_path / "tuned"
    train = ("--data", data, *TRAIN, "--train.objectives", "labels", "softmax")
    done = succeed(
        "pretrain", *train, "--run-dir", run, "--train.epochs", 12, "--train.eval_every_epochs", 6, timeout=240
    )
    best = re.search(r"; best score 0\.[0-9]+ at step ([0-9]+)", done.out[0])
    assert best
    rows: dict[str, dict[str, Any]] = {}
    for line in succeed("evaluate", "--run-dir", run, "--task", "labels").out[0].splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            rows[row["task"]] = row
    taste, noise, orders, lots = (rows.pop(f"labels.{name}") for name in ("taste", "noise", "orders", "lots"))
    assert not rows
    assert min(taste["accuracy"], taste["f1"]) > 0.95
    spread = (noise["majority_rate"] * (1 - noise["majority_rate"]) / noise["users"]) ** 0.5
    assert noise["accuracy"] < noise["majority_rate"] + 3 * spread
    assert orders["auc"] > 0.7  # of the labels of one half any is as likely
    assert lots["auc"] == pytest.approx(0.5, abs=0.05)
    assert [each["protocol"] for each in (taste, orders)] == ["classification", "sampled-99"]
    assert orders["passport"]["candidates"] == "the label and 99 uniform others"
    assert (taste["passport"]["candidates"], taste["passport"]["seeds"]["negatives"]) == ("none: classification", None)

    # The head of a space goes on from the pre-trained one, whichever others there were.
    still = ("--train.objectives", "labels", "--labels.names", "[orders]", "--train.max_steps", 1, "--train.lr", 1e-30)
    still = (*still, "--train.save_all", "true")
    succeed("tune", "--data", data, *TRAIN, *still, "--init", run, "--method", "head", "--run-dir", tuned)
    heads = {name: value for name, value in tensors(tuned).items() if name.startswith(HEADS)}
    assert list(heads) == [f"{HEADS}labels-orders.weight"]
    for name, value in heads.items():
        np.testing.assert_array_equal(value, tensors(run, int(best[1]))[name])
