"""CLUE: nothing but users is contrasted, vectors do not collapse, and they say more of a user than untrained ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppr_dist.config import Config, Model, Tables, Train
from ppr_dist.data.stream.users import Users
from ppr_dist.errors import UserError
from ppr_dist.objectives.cl4srec import Operation
from ppr_dist.objectives.clue import Settings
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.trainer import train_step
from tests.multirank import models
from tests.ranks import run_ranks

TOPICS, USERS, STEPS = 4, 256, 40


def by_topic() -> tuple[Users, np.ndarray]:
    """Users who click on items of one topic, with some of others between; their topics."""
    rng = np.random.default_rng(0)
    topics = rng.integers(0, TOPICS, USERS)
    lengths = rng.integers(6, 11, USERS)
    owner = np.repeat(topics, lengths)
    each = models.ITEMS // TOPICS
    items = rng.integers(0, each, len(owner)) + each * np.where(
        rng.random(len(owner)) < 0.85, owner, rng.integers(0, TOPICS, len(owner))
    )
    return (
        Users(
            index=np.arange(USERS),
            items=items,
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            attributes=np.zeros((2, USERS), np.int64),
        ),
        topics,
    )


def probe(vectors: Tensor, topics: np.ndarray) -> float:
    """Share of the second half's topics that a linear map fitted to the first half finds."""
    half = USERS // 2
    x = torch.cat([torch.nn.functional.normalize(vectors, dim=1), torch.ones(USERS, 1)], 1)
    y = torch.nn.functional.one_hot(torch.from_numpy(topics), TOPICS).float()
    weights = torch.linalg.solve(x[:half].T @ x[:half] + 0.1 * torch.eye(x.shape[1]), x[:half].T @ y[:half])
    return float(((x[half:] @ weights).argmax(1).numpy() == topics[half:]).mean())


def trained(context: DistributedContext, operations: list[Operation]) -> dict[str, Any]:
    users, topics = by_topic()
    config = Config(
        model=Model(dim=16, max_length=10, dropout=0.2),
        tables=Tables(lr=0.1, init_std=0.3),
        train=Train(objectives=["clue"], global_batch_size=USERS, lr=1e-2),
        parts={"clue": Settings(operations=operations)},
    )
    parallel, collator, objectives = models.build(context, config)
    batch = collator(users, epoch=0, step=0, global_users=USERS)
    found: dict[str, Any] = {"looked up": len(batch.item_ids), "clicked": len(np.unique(users.items))}

    def vectors() -> Tensor:
        parallel.engine.eval()
        with torch.no_grad():
            fetched = fetch(batch, parallel.embeddings, objectives)
            items, profiles, _ = parallel.look_up(fetched.look_up)
            final = parallel.engine(items.inputs, batch, profiles).final
        parallel.engine.train()
        return final[0]

    topics = topics[batch.users.numpy()]
    found["before"] = probe(vectors(), topics)
    for step in range(STEPS):
        each = collator(users, epoch=step, step=step, global_users=USERS)
        train_step(parallel, fetch(each, parallel.embeddings, objectives), objectives)
    after = vectors()
    normed = torch.nn.functional.normalize(after, dim=1)
    return found | {"after": probe(after, topics), "deviation": float(normed.std(0).mean()) * 16**0.5}


@pytest.mark.parametrize("operations", [["crop", "mask", "reorder"], []])
def test_vectors_spread_over_all_directions_and_no_candidate_is_looked_up(operations: list[Operation]) -> None:
    (found,) = run_ranks(trained, 1, operations)
    assert found["looked up"] == found["clicked"]
    # 1/√D in every direction is a sphere evenly covered; collapsed vectors have 0.
    assert 0.7 < found["deviation"] < 1.1, found
    assert found["after"] > found["before"] + (0.3 if operations else 0.05), found


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"crop": 0.0}, {"operations": ["crop", "crop"]}, {"temperature": 0.0}):
        with pytest.raises(UserError, match=r"clue\."):
            Settings(**wrong)  # type: ignore[arg-type]
