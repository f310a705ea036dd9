"""The task ``labels`` against brute force, and at chance where scores say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist.batch import Batch
from ppr_dist.config import Config, Train
from ppr_dist.data.stream.instances import Instances, sampled_negatives
from ppr_dist.data.stream.users import Users
from ppr_dist.metrics import USUAL
from ppr_dist.model.encoded import Encoded
from ppr_dist.objectives.labels import head_name
from ppr_dist.scoring import ModelScorer
from ppr_dist.tasks import TASKS
from ppr_dist.tasks.base import Evaluation
from tests.multirank.models import ITEMS, LABELS
from tests.shards import labels_of, random_users, write_data

USERS = random_users(400, ITEMS, shortest=1, longest=9, labels=LABELS)


class Fixed(ModelScorer):
    """Scores labels as a table says, by user."""

    def __init__(self, tables: dict[str, torch.Tensor]) -> None:
        object.__setattr__(self, "tables", tables)

    def encode(self, batch: Batch) -> Encoded:
        tables: dict[str, torch.Tensor] = self.tables  # type: ignore[attr-defined]
        heads = {head_name(name): table[batch.users] for name, table in tables.items()}
        return Encoded(torch.zeros(len(batch.user_rows), 1), None, heads)


def measured(
    folder: Path, tables: dict[str, torch.Tensor], protocol: str = "full", users: Users = USERS
) -> dict[str, Any]:
    manifest = write_data(folder / "data", {"tune-test": users}, items=ITEMS, per_shard=400, labels=LABELS)
    evaluation = Evaluation(
        task="labels",
        scorer=Fixed(tables),
        data=folder,
        manifest=manifest,
        protocol=protocol,
        config=Config(train=Train(objectives=["labels"])),
        metrics=USUAL,
        split="tune-test",
        speaks=True,
        target_time=False,
        seed=4,
    )
    task = TASKS["labels"]
    blocks = [
        task.sums(evaluation, users.take(np.arange(low, high))) for low, high in ((0, 150), (150, 150), (150, 400))
    ]
    return task.finish(evaluation, {name: sum(block[name] for block in blocks) for name in blocks[0]})  # type: ignore[misc]


def random_tables() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {each.name: torch.randn(400, each.size, generator=generator) for each in LABELS}


def by_hand(table: np.ndarray, protocol: str) -> list[tuple[int, int]]:
    """Rank and candidates of each label of each user of the space ``orders``."""
    labels, found = USERS.labels["orders"], []
    for row in range(400):
        own = labels_of(USERS, "orders", row)
        for place, label in enumerate(own):
            others = [each for each in range(table.shape[1]) if each not in own]
            if protocol == "sampled-99":
                of_user = Users(USERS.index, labels.values, labels.offsets, USERS.attributes)
                asked = Instances(of_user, np.array([row]), np.array([place]))
                others = sampled_negatives(asked, table.shape[1], 99, 4)[0].tolist()
                assert len(set(others) - set(own)) == 99
            found.append((1 + sum(table[row, each] >= table[row, label] for each in others), len(others) + 1))
    return found


@pytest.mark.parametrize("protocol", ["full", "sampled-99"])
def test_each_label_is_ranked_without_the_users_others(tmp_path: Path, protocol: str) -> None:
    tables = random_tables()
    own = [labels_of(USERS, "orders", row) for row in range(400)]
    for row, labels in enumerate(own):  # some signal, and ties
        tables["orders"][row, labels] += 1.5
        tables["orders"][row, 20:40] = tables["orders"][row, 20]
    found = measured(tmp_path, tables, protocol)
    ranks, candidates = np.array(by_hand(tables["orders"].numpy(), protocol)).T
    assert found["orders.instances"] == len(ranks)
    assert found["orders.users"] == sum(map(bool, own))
    assert found["orders.auc"] == pytest.approx(np.mean((candidates - ranks) / (candidates - 1)))
    assert found["orders.hit@10"] == pytest.approx(np.mean(ranks <= 10))
    assert found["orders.ndcg@10"] == pytest.approx(np.mean(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0)))
    assert found["orders.mrr@10"] == pytest.approx(np.mean(np.where(ranks <= 10, 1 / ranks, 0)))
    assert found["score"] == pytest.approx((found["answer.accuracy"] + found["orders.ndcg@10"]) / 2)


def test_one_label_each_is_classified(tmp_path: Path) -> None:
    tables = random_tables()
    del tables["orders"]  # a run that was not to predict it
    lengths = USERS.labels["answer"].lengths
    actual, predicted = USERS.labels["answer"].values, tables["answer"].numpy()[lengths > 0].argmax(1)
    found = measured(tmp_path, tables)
    assert set(found) == {"score"} | {
        f"answer.{name}" for name in ("users", "accuracy", "precision", "recall", "f1", "majority_rate")
    }
    assert found["score"] == found["answer.accuracy"] == pytest.approx(np.mean(actual == predicted))
    of_value = []
    for value in range(3):
        hits = np.sum((actual == value) & (predicted == value))
        precision, recall = hits / np.sum(predicted == value), hits / np.sum(actual == value)
        of_value.append((precision, recall, 2 * precision * recall / (precision + recall)))
    for name, mean in zip(("precision", "recall", "f1"), np.mean(of_value, axis=0), strict=True):
        assert found[f"answer.{name}"] == pytest.approx(mean)
    assert found["answer.majority_rate"] == np.bincount(actual).max() / len(actual)


@pytest.mark.parametrize("protocol", ["full", "sampled-99"])
def test_scores_that_say_nothing_rank_at_chance_and_equal_ones_last(tmp_path: Path, protocol: str) -> None:
    found = measured(tmp_path, random_tables(), protocol)
    instances = found["orders.instances"]
    assert abs(found["orders.auc"] - 0.5) < 4 / np.sqrt(12 * instances)
    chance = 10 / (100 if protocol == "sampled-99" else 129)
    assert abs(found["orders.hit@10"] - chance) < 4 * np.sqrt(chance / instances)
    equal = measured(tmp_path / "equal", {each.name: torch.zeros(400, each.size) for each in LABELS}, protocol)
    assert equal["orders.auc"] == 0


def test_a_line_for_each_space_says_its_own_protocol(tmp_path: Path) -> None:
    figures = {"task": "labels", "protocol": "by label space", "target_time": False}
    figures |= measured(tmp_path, random_tables())
    answer, orders = TASKS["labels"].lines(figures, "full")
    assert (answer["task"], answer["protocol"]) == ("labels.answer", "classification")
    assert (orders["task"], orders["protocol"]) == ("labels.orders", "full")
    assert orders["ndcg@10"] == figures["orders.ndcg@10"]
    assert "ndcg@10" not in answer
    assert "score" not in {*answer, *orders}
