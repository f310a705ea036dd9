"""``encode_users`` against the scorer, user by user from the raw log; and vectors of users as profiles, end to end.

Of the latter: users click within one of some groups of items, and their vectors say of which.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.data.stream.users import Users
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.trained import load_trained
from tests.commands import run_command, succeed
from tests.oracle import read_profiles, read_splits
from tests.ranks import run_ranks


def by_the_scorer(context: DistributedContext, run: Path, data: Path, raw: Path) -> dict[int, np.ndarray]:
    """Vectors by raw user, each encoded alone from raw files."""
    trained, found = load_trained(run, None, context), {}
    items = {item: n for n, item in enumerate(pd.read_parquet(data / "items.parquet").item_id)}
    profiles, splits = read_profiles(raw / "users.parquet", data), read_splits(raw / "interactions.parquet")
    for user, clicked in [each for users in splits.values() for each in users.items()][::6]:
        alone = Users(
            index=np.zeros(1, np.int64),
            items=np.array([items[item] for item in clicked]),
            offsets=np.array([0, len(clicked)]),
            attributes=np.array(profiles[user])[:, None],
        )
        batch = history_batch(Instances(alone, np.zeros(1, np.int64), alone.lengths), trained.config.model.max_length)
        with torch.no_grad():
            found[user] = trained.scorer.user_vectors(batch).numpy()[0]
    return found


@pytest.mark.exhaustive
def test_vectors_are_the_scorers_and_in_the_order_of_users_on_any_number_of_ranks(
    tuned: Path, catalogue: Path, raw: Path, tmp_path: Path
) -> None:
    (want,) = run_ranks(by_the_scorer, 1, tuned, catalogue, raw)
    words = ("--run-dir", tuned, "--batch", 37, "--progress", "false")
    succeed("encode_users", *words, "--out", tmp_path / "one")
    succeed("encode_users", *words, "--out", tmp_path / "two", world_size=2)
    one, two = (pd.read_parquet(tmp_path / name) for name in ("one", "two"))
    assert one.user_id.tolist() == two.user_id.tolist() == pd.read_parquet(catalogue / "users.parquet").user_id.tolist()
    vectors, again = (np.stack(frame.vector.to_list()) for frame in (one, two))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(again, vectors, rtol=1e-5, atol=1e-6)
    mine = one.set_index("user_id").vector
    assert len(want) == 40
    for user, vector in want.items():
        np.testing.assert_allclose(mine[user], vector, rtol=1e-5, atol=1e-6)
    assert vectors.std(axis=0).min() > 1e-2


GROUPS, PER_GROUP, USERS = 4, 25, 240
TRAIN = """
import json
from ppr_dist.library import evaluate, prepare, pretrain, tune
tiny = {"train": {"epochs": 6, "lr": 1e-2, "global_batch_size": 32}, "logging": {"progress": False}}
rows = {}
for name in ("said", "shuffled"):
    prepare(interactions="log.parquet", user_vectors=name + ".parquet", out=name, simulate_cold=0.5)
pretrain(data="said", run_dir="run", model={"dim": 16, "max_length": 12, "dropout": 0.0}, sasrec={"layers": 1},
         softmax={"uniform_negatives": 64}, tables={"lr": 0.1}, **tiny)
for name in ("said", "shuffled"):
    tune(data=name, init="run", method="ppr-light", run_dir=name + "-run", softmax={"uniform_negatives": 64},
         prompt={"hidden": 16}, **tiny)
    rows[name] = evaluate(run_dir=name + "-run", task=["zero-shot"], protocol="full", progress=False)[0]["auc"]
print(json.dumps(rows))
"""


@pytest.mark.exhaustive
def test_prompts_are_made_of_vectors_and_vectors_of_others_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, group = np.random.default_rng(0), np.arange(USERS) % GROUPS
    clicks = np.concatenate([GROUPS * rng.permutation(PER_GROUP)[:12] + g for g in group])
    log = pd.DataFrame({"user_id": np.repeat(np.arange(USERS), 12), "item_id": clicks})
    log.assign(position=np.tile(np.arange(12), USERS)).to_parquet(tmp_path / "log.parquet")
    for name, of in (("said", group), ("shuffled", rng.permutation(group))):
        vectors = pd.DataFrame({"user_id": np.arange(USERS), "vector": list(np.eye(GROUPS)[of])})
        vectors.to_parquet(tmp_path / f"{name}.parquet")
    monkeypatch.chdir(tmp_path)
    rows = json.loads(succeed("tests.snippet", TRAIN).out[0].splitlines()[-1])
    assert rows["said"] > 0.8
    assert 0.35 < rows["shuffled"] < 0.65

    # A user nobody has seen, of whom there is a vector alone.
    pd.DataFrame({"user_id": USERS + np.arange(GROUPS)}).to_parquet("new.parquet")
    new = pd.DataFrame({"user_id": USERS + np.arange(GROUPS), "vector": list(np.eye(GROUPS))})
    new.to_parquet("of-new.parquet")
    words = ("--run-dir", "said-run", "--users", "new.parquet", "--out", "found", "--progress", "false")
    refused = run_command("recommend", *words)
    assert refused.codes == [2]
    assert "said-run was tuned with vectors of users: give --user-vectors" in refused.lines[-1]
    succeed("recommend", *words, "--user-vectors", "of-new.parquet", world_size=2)
    found = pd.read_parquet("found")
    assert (found.item_id % GROUPS == found.user_id % GROUPS).mean() > 0.8
