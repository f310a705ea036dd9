"""``recommend`` against brute force: every item's score from the checkpoint, what the user saw left out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.prepare.raw_users import load_raw_users
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.trained import load_trained
from tests.commands import succeed
from tests.ranks import run_ranks

USERS = 40


def all_scores(
    context: DistributedContext, run: Path, data: Path, users: Path, interactions: Path | None
) -> dict[str, Any]:
    """Scores of every user for every item, and what each of them saw."""
    with tempfile.TemporaryDirectory() as work:
        raw = load_raw_users(users, interactions, data, load_manifest(data), Path(work))
        ids, users_read = raw.read(0, raw.users)
    with torch.no_grad():
        trained = load_trained(run, data, context)
        instances = Instances(users_read, np.arange(len(users_read)), users_read.lengths)
        vectors = trained.scorer.user_vectors(history_batch(instances, trained.config.model.max_length))
        items = trained.scorer.item_vectors(torch.arange(trained.manifest.items))
    seen = [
        set(users_read.items[low:high].tolist())
        for low, high in zip(users_read.offsets[:-1], users_read.offsets[1:], strict=True)
    ]
    return {"ids": ids.to_pylist(), "scores": (vectors @ items.T).numpy(), "seen": seen}


@pytest.fixture(scope="module")
def files(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Profiles of some users (warm, cold and new, in no order), and the whole log with clicks on unknown items."""
    folder = tmp_path_factory.mktemp("recommend")
    profiles = pd.read_parquet(raw / "users.parquet").sample(USERS, random_state=1)
    new = pd.DataFrame({"user_id": [10**9, 10**9 + 1], "age": [40, None], "gender": [None, "male"], "city": "Nowhere"})
    pd.concat([profiles, new]).sample(frac=1, random_state=2).to_parquet(folder / "users.parquet")
    log = pd.read_parquet(raw / "interactions.parquet")
    strange = log.iloc[:USERS].assign(user_id=profiles.user_id.to_numpy(), item_id=10**7, timestamp=log.timestamp.max())
    pd.concat([log, strange]).to_parquet(folder / "log.parquet")
    return folder / "users.parquet", folder / "log.parquet"


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("which", ["pretrained", "tuned"])
def test_output_equals_brute_force(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    catalogue: Path,
    files: tuple[Path, Path],
    which: str,
    world_size: int,
) -> None:
    run, k, out = request.getfixturevalue(which), 7, tmp_path / "new" / "r.parquet"
    words = ("--run-dir", run, "--users", files[0], "--interactions", files[1], "--out", out, "--k", k)
    # A batch that does not divide the users: the last pass is a small one, and in it a rank may have nobody.
    done = succeed("recommend", *words, "--batch", 41, "--progress", "false", world_size=world_size)
    assert f"{USERS} of " in done.lines[0]  # the clicks on an unknown item
    # Without profiles a run knows nothing of users without clicks, and says so; with them, nothing of Nowhere.
    want = "users have no clicks" if which == "pretrained" else "are read as unknown: "
    assert [want in line for line in done.lines[1:]] == [True]
    truth = run_ranks(all_scores, 1, run, catalogue, *files)[0]
    vocabulary = pd.read_parquet(catalogue / "items.parquet").item_id.to_numpy()
    found = pd.read_parquet(out)
    assert found.columns.tolist() == ["user_id", "item_id", "rank", "score"]
    assert found.user_id.tolist() == [user for user in truth["ids"] for _ in range(k)]
    assert found["rank"].tolist() == list(range(1, k + 1)) * (USERS + 2)
    for row, user in enumerate(truth["ids"]):
        scores = truth["scores"][row].copy()
        scores[list(truth["seen"][row])] = -np.inf
        best = np.argsort(-scores, kind="stable")[:k]
        mine = found[found.user_id == user]
        np.testing.assert_allclose(mine.score, scores[best], rtol=1e-4, atol=1e-6)
        assert not set(mine.item_id) & set(vocabulary[list(truth["seen"][row])])
        by_item = dict(zip(vocabulary, scores, strict=True))
        np.testing.assert_allclose(mine.score, [by_item[item] for item in mine.item_id], rtol=1e-4, atol=1e-6)
        assert mine.item_id.is_unique
    assert sum(map(len, truth["seen"])) > 5 * USERS
    assert len(list(out.parent.iterdir())) == 1


def test_more_items_wanted_than_are_left(
    tmp_path: Path, catalogue: Path, tuned: Path, files: tuple[Path, Path]
) -> None:
    items, out = load_manifest(catalogue).items, tmp_path / "r.parquet"
    words = ("--run-dir", tuned, "--users", files[0], "--interactions", files[1], "--out", out, "--k", 10 * items)
    succeed("recommend", *words, "--progress", "false", world_size=2)
    truth = run_ranks(all_scores, 1, tuned, catalogue, *files)[0]
    sizes = pd.read_parquet(out).groupby("user_id").size().to_dict()
    assert sizes == {user: items - len(seen) for user, seen in zip(truth["ids"], truth["seen"], strict=True)}


def test_an_attribute_steers_the_ranking_of_a_tuned_run_alone(
    tmp_path: Path, raw: Path, pretrained: Path, tuned: Path
) -> None:
    """The same clicks in two cities."""
    users = pd.read_parquet(raw / "users.parquet").iloc[:20].assign(age=30, gender="female")
    found: dict[tuple[str, str], pd.DataFrame] = {}
    for city in ("city-01", "city-02"):
        users.assign(city=city).to_parquet(tmp_path / f"{city}.parquet")
        for run in (pretrained, tuned):
            out = tmp_path / f"{city}-{run.parent.name}.parquet"
            words = ("--users", tmp_path / f"{city}.parquet", "--interactions", raw / "interactions.parquet")
            succeed("recommend", "--run-dir", run, *words, "--out", out, "--k", 50, "--progress", "false")
            found[city, "tuned" if run == tuned else "pretrained"] = pd.read_parquet(out)
    pd.testing.assert_frame_equal(found["city-01", "pretrained"], found["city-02", "pretrained"])
    one, two = found["city-01", "tuned"], found["city-02", "tuned"]
    # How far a ranking moves depends on the seed; that (nearly) every user's moves does not.
    assert (one.item_id != two.item_id).groupby(one.user_id).any().mean() >= 0.9
    both = one.merge(two, on=["user_id", "item_id"], suffixes=("_one", "_two"))
    assert (both.score_one - both.score_two).abs().min() > 0


def test_a_new_user_is_served_from_the_profile_alone(
    tmp_path: Path, catalogue: Path, tuned: Path, files: tuple[Path, Path]
) -> None:
    """No log at all: another ranking for another profile, that of zero-shot."""
    users = pd.DataFrame({"user_id": [-1, -2, -3], "city": ["city-01", "city-02", "city-01"], "age": 25})
    users.assign(gender=["male", "male", "female"]).to_csv(tmp_path / "users.csv", index=False)
    out = tmp_path / "r.parquet"
    words = ("--run-dir", tuned, "--users", tmp_path / "users.csv", "--out", out, "--k", 30, "--progress", "false")
    succeed("recommend", *words)
    truth = run_ranks(all_scores, 1, tuned, catalogue, tmp_path / "users.csv", None)[0]
    found = pd.read_parquet(out)
    rankings = [found[found.user_id == user].item_id.tolist() for user in (-1, -2, -3)]
    assert rankings[0] != rankings[1] != rankings[2] != rankings[0]
    for row, user in enumerate(truth["ids"]):
        best = np.sort(truth["scores"][row])[::-1][:30]
        np.testing.assert_allclose(found[found.user_id == user].score, best, rtol=1e-4, atol=1e-6)
