"""Items that nobody clicked: by features they are ranked and recommended to those whom they fit, by ids they are not.

Users click within one of some groups of items, and features say of which group an item is.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.commands import succeed

GROUPS, PER_GROUP, USERS, NEW = 6, 25, 300, 10_000

TRAIN = """
import json
from ppr_dist.library import evaluate, pretrain, prepare, recommend
prepare(interactions="log.parquet", item_features={"text": "features.parquet", "image": "some.parquet"}, out="data",
        hide_items=0.15, code_levels=2, code_values=8, cold_threshold=2)
rows = {}
for name, encoders in {"features": ["features", "codes"], "id": ["id"]}.items():
    pretrain(data="data", run_dir=name, model={"item_encoders": encoders, "dim": 16, "max_length": 12, "dropout": 0.0},
             sasrec={"layers": 1}, softmax={"uniform_negatives": 64}, tables={"lr": 0.1},
             train={"epochs": 8, "lr": 1e-2, "global_batch_size": 32}, logging={"progress": False})
    (rows[name],) = evaluate(run_dir=name, task=["cold-item"], protocol="full", progress=False)
recommend(run_dir="features", users="users.parquet", interactions="log.parquet", out="found", k=25, progress=False)
print(json.dumps(rows))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    group = np.arange(USERS) % GROUPS
    clicks = np.concatenate([GROUPS * rng.permutation(PER_GROUP)[:12] + g for g in group])
    log = pd.DataFrame({"user_id": np.repeat(np.arange(USERS), 12), "item_id": clicks})
    log.assign(position=np.tile(np.arange(12), USERS)).to_parquet(tmp_path / "log.parquet")
    pd.DataFrame({"user_id": np.arange(USERS)}).to_parquet(tmp_path / "users.parquet")
    items = np.append(np.arange(GROUPS * PER_GROUP), NEW + np.arange(GROUPS))  # a new one in each group
    vectors = np.eye(GROUPS)[(items - NEW * (items >= NEW)) % GROUPS]
    vectors = (vectors + rng.normal(size=vectors.shape) * 0.1).astype(np.float32)
    image = items % 2 == 0  # half of them have one, which says nothing
    pd.DataFrame({"item_id": items, "vector": list(vectors)}).to_parquet(tmp_path / "features.parquet")
    noise = list(rng.normal(size=(image.sum(), 3)))
    pd.DataFrame({"item_id": items[image], "vector": noise}).to_parquet(tmp_path / "some.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.exhaustive
def test_features_rank_and_recommend_what_nobody_clicked_and_ids_cannot(folder: Path) -> None:
    rows = json.loads(succeed("tests.snippet", TRAIN).out[0].splitlines()[-1])
    assert rows["features"]["instances"] > 20
    assert rows["features"]["auc"] > 0.85
    # A row that nothing trained scores near 0: above what a user would not click, below all that it would.
    assert rows["id"]["auc"] < rows["features"]["auc"] - 0.1
    assert rows["id"]["hit@10"] < 0.2 < 0.4 < rows["features"]["hit@10"]
    found = pd.read_parquet(folder / "found")
    new = found[found.item_id >= NEW]
    fits = (new.item_id - NEW) % GROUPS == new.user_id % GROUPS
    assert fits.mean() > 0.4
    assert fits.sum() > 0.8 * USERS
