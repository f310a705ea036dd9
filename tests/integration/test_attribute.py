"""Predicting an attribute: from clicks that show it, from labels that were shuffled, and never from itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ppr_dist.catalogue import Catalogue
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.scoring import ModelScorer
from tests.commands import succeed
from tests.integration.conftest import TINY
from tests.multirank import models
from tests.oracle import tensors
from tests.ranks import run_ranks

HEAD = "dense.parameter.heads.attribute.weight"
USERS, ITEMS, CLICKS = 600, 60, 8
TRAIN = (
    *("--model.dim", 16, "--sasrec.layers", 1, "--profiles.attribute_dim", 8),
    *("--train.global_batch_size", 64, "--train.lr", 1e-2, "--tables.lr", 0.1, "--softmax.uniform_negatives", 32),
)


def raw(folder: Path, *, shuffled: bool) -> Path:
    """A log in which users of taste "a" click the first half of the items alone, and all others the second half."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    likes = rng.random(USERS) < 0.3
    items = rng.integers(0, ITEMS // 2, (USERS, CLICKS)) + ~likes[:, None] * (ITEMS // 2)
    taste = np.where(rng.permutation(likes) if shuffled else likes, "a", "b")
    user = np.repeat(np.arange(USERS), CLICKS)
    log = {"user_id": user, "item_id": items.ravel(), "timestamp": np.tile(np.arange(CLICKS), USERS)}
    pq.write_table(pa.table(log), folder / "interactions.parquet")
    pq.write_table(pa.table({"user_id": np.arange(USERS), "taste": taste}), folder / "users.parquet")
    return folder


def measured(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Accuracy and the rest after pre-training on some users and tuning on others."""
    files = ("--interactions", folder / "interactions.parquet", "--users", folder / "users.parquet")
    data, run, tuned = (tmp_path / name for name in ("data", "run", "tuned"))
    succeed("prepare", *files, "--out", data, "--cold-threshold", 5, "--simulate-cold", 0.7)
    succeed("pretrain", "--data", data, "--run-dir", run, *TRAIN, "--train.epochs", 1)
    tune = ("--data", data, "--init", run, "--run-dir", tuned, "--method", "fine-tune", "--attribute.name", "taste")
    succeed("tune", *tune, *TRAIN, "--train.epochs", 20, "--train.objectives", "attribute")
    row: dict[str, Any] = json.loads(
        succeed("evaluate", "--run-dir", tuned, "--task", "attribute").out[0].splitlines()[-1]
    )
    return row


def test_what_clicks_show_is_predicted_and_reported(tmp_path: Path) -> None:
    row = measured(raw(tmp_path / "raw", shuffled=False), tmp_path)
    assert row["attribute"] == "taste"
    assert 0.6 < row["majority_rate"] < 0.8
    assert min(row["accuracy"], row["precision"], row["recall"], row["f1"]) > 0.95
    succeed("evaluate", "--run-dir", tmp_path / "tuned", "--task", "few-shot", "--protocol", "full")
    for protocol in ("sampled-99", "full"):
        report = ("--runs", tmp_path / "tuned", "--protocol", protocol, "--metric", "accuracy")
        lines = succeed("report", *report, "--out", tmp_path / protocol).out[0].splitlines()
        (cells,) = [line.split(" | ") for line in lines if "| attribute |" in line]
        assert cells[4] == str(row["users"])
        assert f"{row['accuracy']:.4f}" in cells


def test_shuffled_labels_give_the_majority_rate_at_best(tmp_path: Path) -> None:
    row = measured(raw(tmp_path / "raw", shuffled=True), tmp_path)
    spread = (row["majority_rate"] * (1 - row["majority_rate"]) / row["users"]) ** 0.5
    assert row["accuracy"] < row["majority_rate"] + 3 * spread
    assert abs(row["recall"] - 0.5) < 0.15  # the mean over two values that cannot be told apart


def with_another(context: DistributedContext, column: int) -> list[np.ndarray]:
    """User vectors and logits after whole histories, as they are and with another value of the attribute of all."""
    config = models.small_config("attribute", attribute={"name": "age"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "CATALOGUE", Catalogue(**(vars(models.CATALOGUE) | {"hidden": frozenset({"age"})})))
        parallel, _, _ = models.build(context, config, "ppr-full")
    for parameter in parallel.engine.module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    users, found = models.users(), []
    for attributes in (users.attributes, (users.attributes + 1) % np.array(list(models.ATTRIBUTES.values()))[:, None]):
        shown = users.attributes.copy()
        shown[column] = attributes[column]
        changed = models.Users(**(vars(users) | {"attributes": shown}))
        everyone = Instances(changed, np.arange(len(users)), users.lengths)
        batch = history_batch(everyone, config.model.max_length)
        parallel.engine.eval()
        with torch.no_grad():
            encoded = ModelScorer(parallel.embeddings, parallel.engine, context.device).encode(batch)
        found.append(torch.cat([encoded.user, encoded.heads["attribute"][batch.user_rows]], dim=1).numpy())
    return found


def test_the_attribute_itself_is_not_seen_and_the_others_are() -> None:
    age, city = run_ranks(with_another, 1, 0)[0], run_ranks(with_another, 1, 1)[0]
    np.testing.assert_array_equal(*age)
    assert not np.allclose(*city)


def test_a_head_of_another_attribute_is_not_tuned(catalogue: Path, tmp_path: Path) -> None:
    """Of the same one it is."""
    gender, city = (("--train.objectives", "attribute", "--attribute.name", name) for name in ("gender", "city"))
    flags = (*TINY, "--data", catalogue)
    succeed("pretrain", *flags, *gender, "--run-dir", tmp_path / "run")
    still = ("--train.max_steps", 1, "--train.lr", 1e-30, "--init", tmp_path / "run", "--method", "fine-tune")
    for name, objectives in (("gender", gender), ("city", city)):
        succeed("tune", *flags, *still, *objectives, "--run-dir", tmp_path / name)
    before, again, another = (tensors(tmp_path / name)[HEAD] for name in ("run", "gender", "city"))
    np.testing.assert_array_equal(again, before)
    values = json.loads((tmp_path / "city" / "run.json").read_text())["attributes"]
    assert [len(before), len(another)] == [values["gender"] - 1, values["city"] - 1]

    # What is not seen anyway is not missed.
    users = tmp_path / "users.csv"
    users.write_text("user_id,age,gender,city\n1,33,none of ours,Nowhere\n")
    words = ("--run-dir", tmp_path / "city", "--users", users, "--out", tmp_path / "best", "--progress", "false")
    (unknown,) = [line for line in succeed("recommend", *words).lines if "read as unknown" in line]
    assert unknown.endswith("read as unknown: gender 100.0%")
