"""The content baseline against cosines computed one instance at a time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ppr_dist.baselines import ContentScorer, baseline_scorer
from ppr_dist.config import Config, Model
from ppr_dist.data.manifest import ItemData, Manifest, item_data_file
from ppr_dist.errors import UserError
from ppr_dist.evaluation import evaluate
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.tasks.base import Evaluated
from tests.ranks import run_ranks
from tests.shards import clicks_of, random_users, write_data

ITEMS, MAX_LENGTH = 40, 5
USERS = random_users(30, ITEMS, shortest=2, longest=9)
_RNG = np.random.default_rng(0)
FEATURES = {"text": _RNG.normal(size=(ITEMS, 3)).astype(np.float16), "image": _RNG.normal(size=(ITEMS, 2))}
FEATURES["text"][7], FEATURES["image"][7] = 0, 0  # nothing is known of it


def data_with_features(folder: Path) -> Manifest:
    manifest = write_data(folder, {"pretrain": USERS}, items=ITEMS, per_shard=8)
    of = {"text": "features", "image": "features", "codes": "codes"}
    arrays = {**FEATURES, "codes": np.full((ITEMS, 2), 9)}
    data = {}
    for name, array in arrays.items():
        np.save(folder / item_data_file(name), array.astype(np.float16))
        data[name] = ItemData(kind=of[name], columns=array.shape[1], known=ITEMS - 1, sha256="")  # type: ignore[arg-type]
    manifest = dataclasses.replace(manifest, item_data=data).sealed()
    manifest.save(folder)
    return manifest


def ranks(context: DistributedContext, folder: Path) -> list[int]:
    manifest, found = data_with_features(folder), list[int]()
    scorer = baseline_scorer("content", folder, manifest, context, 8)

    def keep(ranked: Evaluated) -> None:
        found.extend(ranked.ranks.tolist())

    config = Config(model=Model(max_length=MAX_LENGTH))
    evaluate(scorer, folder, manifest, context, task="next-item", protocol="full", config=config, keep=keep)
    return found


def test_content_ranks_by_the_cosine_with_the_mean_of_the_clicks(tmp_path: Path) -> None:
    vectors = np.concatenate([array.astype(np.float16).astype(float) for array in FEATURES.values()], axis=1)
    length = np.linalg.norm(vectors, axis=1)
    length[7] = 1
    want = []
    for row in range(len(USERS)):
        *history, target = clicks_of(USERS, row)
        mean = vectors[history[-MAX_LENGTH:]].mean(0)
        scores = vectors @ mean / length
        others = [item for item in range(ITEMS) if item != target and item not in history]
        want.append(1 + sum(scores[item] >= scores[target] - 1e-9 for item in others))
    assert run_ranks(ranks, 1, tmp_path / "data")[0] == want
    assert len(set(want)) > 10


def test_data_without_features_is_refused(tmp_path: Path) -> None:
    manifest = write_data(tmp_path / "data", {"pretrain": USERS}, items=ITEMS, per_shard=8)
    with pytest.raises(UserError, match="no features of items"):
        ContentScorer(tmp_path / "data", manifest, None)  # type: ignore[arg-type]
