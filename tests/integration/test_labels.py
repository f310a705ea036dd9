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
import torch

from ppr_dist.checkpoint import reader
from ppr_dist.checkpoint.position import checkpoints
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.trained import load_several, load_trained
from tests.commands import run_command, succeed
from tests.integration.test_attribute import TRAIN
from tests.oracle import tensors
from tests.ranks import run_ranks

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


TABLES = ("--labels.dense_up_to", 2, "--labels.uniform_negatives", 60)
"""Of ``taste`` and ``noise`` a layer, of ``orders`` and ``lots`` a table each."""
ORDERS = "tables.labels.embeddings.label:orders.weight"


def lines_of(run: Path, *words: Any) -> dict[str, dict[str, Any]]:
    """What evaluate says of each label space."""
    out = succeed("evaluate", "--run-dir", run, "--task", "labels", *words).out[0].splitlines()
    lines = [json.loads(line) for line in out if line.startswith("{")]
    return {line["task"].removeprefix("labels."): line for line in lines}


def test_a_table_is_trained_evaluated_and_goes_on_in_tuning(tmp_path: Path) -> None:
    data, run, tuned = prepared(tmp_path), tmp_path / "run", tmp_path / "tuned"
    train = ("--data", data, *TRAIN, "--train.objectives", "labels", "softmax")
    long = ("--train.epochs", 12, "--train.eval_every_epochs", 12)
    succeed("pretrain", *train, *TABLES, *long, "--run-dir", run, world_size=2, timeout=240)
    plan = json.loads((run / "plan.json").read_text())
    assert {table["name"]: table["sharding_type"] for table in plan["tables"]} == dict.fromkeys(
        ("item", "label:lots", "label:orders"), "row_wise"
    )
    sampled, full = lines_of(run), lines_of(run, "--protocol", "full")
    assert sampled["taste"]["accuracy"] > 0.95
    for found in (sampled, full):
        assert found["orders"]["auc"] > 0.7
        assert found["lots"]["auc"] == pytest.approx(0.5, abs=0.05)
    assert full["orders"]["passport"]["candidates"] == f"all {LABELS} labels but the user's others"

    # The table of a space goes on from the pre-trained one, whichever others there were.
    still = ("--train.max_steps", 1, "--train.lr", 1e-30, "--tables.lr", 0, "--labels.names", "[orders]")
    tune = ("--data", data, *TRAIN, *still, "--train.objectives", "labels", "--init", run, "--method", "fine-tune")
    succeed("tune", *tune, *TABLES, "--run-dir", tuned)
    np.testing.assert_array_equal(tensors(tuned)[ORDERS], tensors(run)[ORDERS])
    assert not [name for name in tensors(tuned) if "lots" in name]
    assert lines_of(tuned, "--protocol", "full")["orders"]["auc"] == pytest.approx(full["orders"]["auc"], abs=1e-6)

    # What was a table is no layer all at once.
    for command, words, said in (
        ("tune", (*tune, "--run-dir", tmp_path / "layer"), "in a table: tune it with labels.dense_up_to 2"),
        ("pretrain", (*train, "--run-dir", run, "--resume"), "cannot be resumed to predict labels 'lots'"),
    ):
        done = run_command(command, *words)
        assert done.codes == [2]
        assert said in done.err[0].splitlines()[-1]


def test_tuning_brings_a_table_to_a_run_without_one(tmp_path: Path) -> None:
    data, run, tuned = prepared(tmp_path), tmp_path / "run", tmp_path / "tuned"
    succeed("pretrain", "--data", data, *TRAIN, "--train.epochs", 1, "--run-dir", run)
    tune = ("--data", data, *TRAIN, *TABLES, "--train.objectives", "labels", "--labels.names", "[orders]")
    succeed("tune", *tune, "--train.epochs", 12, "--init", run, "--method", "patch", "--run-dir", tuned)
    assert tensors(tuned)[ORDERS].shape == (LABELS, 16)
    own = {name for name in reader.names(checkpoints(tuned)[-1]) if name.startswith("tables.")}
    assert own == {ORDERS}  # the item table is frozen, and in the pre-trained run
    assert lines_of(tuned)["orders"]["auc"] > 0.65
    for table in run_ranks(_served, 1, tuned)[0]:
        np.testing.assert_array_equal(table, tensors(tuned)[ORDERS])


def _served(context: DistributedContext, tuned: Path) -> list[np.ndarray]:
    """The table of a run loaded alone, and on top of the pre-trained one that others share with it."""
    loaded = [load_trained(tuned, None, context), *load_several([tuned], None, context)]
    with torch.no_grad():
        return [each.scorer.embeddings.look_up_labels("orders", torch.arange(LABELS)).numpy() for each in loaded]
