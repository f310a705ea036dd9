"""P5 from a click log to a ranking: what is to be learnt is learnt, and nothing else is.

In the cyclic log each item is followed by the next one; in the random log by any.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.raw_ids import item_ids
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.p5 import prepare as p5_prepare
from ppr_dist.p5 import token_log
from ppr_dist.p5.ranking import Generator
from ppr_dist.p5.token_log import read_description
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.tasks.next_item import NextItem
from ppr_dist.trained import load_trained
from tests.commands import succeed
from tests.ranks import run_ranks

pytestmark = pytest.mark.exhaustive

USERS, ITEMS, CLICKS = 250, 40, 11
MODEL = (
    *("--model.dim", 32, "--sasrec.layers", 1, "--model.dropout", 0, "--tables.lr", 0.1, "--logging.progress", "false"),
    *("--train.global_batch_size", 64, "--train.lr", 1e-2, "--train.epochs", 12),
)


def trained(folder: Path, items: np.ndarray) -> Path:
    """A run on sentences about a log: of ``items`` [USERS, CLICKS] each user has the first 5 to CLICKS."""
    lengths = np.random.default_rng(5).integers(5, CLICKS + 1, USERS)
    user, position = np.nonzero(np.arange(CLICKS) < lengths[:, None])
    log = pd.DataFrame({"user_id": user, "item_id": items[user, position], "position": position})
    log.to_parquet(folder / "log.parquet")
    succeed("prepare", "--interactions", folder / "log.parquet", "--out", folder / "data", "--cold-threshold", 2)
    words = ["--data", f"{folder}/data", "--out", f"{folder}/p5", "--code-values", "8", "--history", "3"]
    p5_prepare.main(words)
    files = ("--config", folder / "p5" / "pretrain.yaml", "--data", folder / "p5" / "tokens")
    succeed("pretrain", *files, *MODEL, "--run-dir", folder / "run", "--logging.tensorboard", "true")
    return folder / "run"


def ranked(run: Path, *words: Any, world_size: int = 0) -> dict[str, Any]:
    done = succeed("p5.evaluate", "--run-dir", run, *words, "--progress", "false", world_size=world_size)
    row: dict[str, Any] = json.loads(done.out[0].splitlines()[-1])
    return row


@pytest.fixture(scope="module")
def cyclic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    begins = np.random.default_rng(0).integers(0, ITEMS, USERS)
    return trained(tmp_path_factory.mktemp("cyclic"), (begins[:, None] + np.arange(CLICKS)) % ITEMS)


def test_what_follows_each_item_is_learnt_and_written_under_raw_ids(cyclic: Path, tmp_path: Path) -> None:
    row = ranked(cyclic, "--out", tmp_path / "best", "--k", 3, world_size=2)
    assert (row["instances"], row["protocol"], row["method"]) == (USERS, "full", "p5")
    assert row["hit@1"] > 0.8
    assert "hit@50" not in row  # beyond the beams
    events = EventAccumulator(str(cyclic / "tensorboard"))
    events.Reload()
    assert events.Scalars("evaluation/next-item/full/hit@1")[-1].value == pytest.approx(row["hit@1"])
    log, best = pd.read_parquet(cyclic.parent / "log.parquet"), pd.read_parquet(tmp_path / "best")
    assert best.groupby("user_id").size().tolist() == [3] * USERS
    assert best.item_id.isin(log.item_id).all()
    assert best.merge(log, on=["user_id", "item_id"]).empty  # what was clicked is not recommended
    first = best[best["rank"] == 1].set_index("user_id").item_id
    follows = (log.groupby("user_id").item_id.last() + 1) % ITEMS
    assert (first == follows[first.index]).mean() > 0.8


def exactly(context: DistributedContext, run: Path) -> list[np.ndarray]:
    """What the search finds with as many beams as items; and the log probability of each item, spelled code by code."""
    model = load_trained(run, None, context)
    description, codes = read_description(model.data.parent)
    generator = Generator(model, description, codes)
    data, numbers = Path(description.data), item_ids(model.data).to_pylist()
    _, parts = users_in_order(data, load_manifest(data), "pretrain", rank=0, world_size=1, at_once=20)
    instances = NextItem().instances(next(parts))
    nothing = np.zeros(0, np.int64)
    with torch.no_grad():
        found, scores = generator.items(instances, ITEMS, (nothing, nothing))
        everything = torch.zeros(len(found), len(codes))
        for item, spelled in enumerate(codes):
            for level, first in enumerate(description.vocabulary.first_code.tolist()):
                states = generator._states(instances, np.tile(spelled[:level], (len(found), 1, 1)))
                rows = [numbers.index(first + code) for code in range(description.sizes[level])]
                logits = states @ model.scorer.item_vectors(torch.tensor(rows)).T
                everything[:, item] += torch.log_softmax(logits, dim=1)[:, spelled[level]]
    return [each.numpy() for each in (found, scores, everything)]


def test_all_beams_give_the_order_of_all_items(cyclic: Path) -> None:
    found, scores, everything = run_ranks(exactly, 1, cyclic)[0]
    assert found.shape == everything.shape
    assert (np.sort(found, axis=1) == np.arange(everything.shape[1])).all()
    np.testing.assert_allclose(scores, np.take_along_axis(everything, found, axis=1), rtol=1e-4, atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert len({tuple(row) for row in found.tolist()}) > 10  # users differ


def test_random_clicks_stay_at_chance(tmp_path: Path) -> None:
    items = np.stack([np.random.default_rng(user).permutation(ITEMS)[:CLICKS] for user in range(USERS)])
    row = ranked(trained(tmp_path, items))
    for cutoff in (1, 10):
        chance = [cutoff / (ITEMS - clicks + 1) for clicks in (5, CLICKS)]  # the least, the most
        noise = 4 * (chance[1] / USERS) ** 0.5
        assert chance[0] - noise < row[f"hit@{cutoff}"] < chance[1] + noise


def test_numbers_along_whole_sequences_give_targets_away_and_ours_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random clicks on so many items that most targets have no training click. Renumber those among themselves."""
    many = 1_500
    items = np.stack([np.random.default_rng(user).permutation(many)[:CLICKS] for user in range(USERS)])
    hits = {}
    for name in ("ours", "whole"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "whole":
            monkeypatch.setattr(token_log, "training_clicks", whole_sequences)
        run = trained(folder, items)
        codes = np.load(folder / "p5" / "item_codes.npy")
        hits[name] = ranked(run)["hit@10"]
        shown = pd.read_parquet(folder / "data" / "items.parquet").train_count.to_numpy() > 0
        unseen = np.flatnonzero(~shown)
        codes[unseen] = codes[np.random.default_rng(0).permutation(unseen)]
        np.save(folder / "p5" / "item_codes.npy", codes)
        hits[name, "renumbered"] = ranked(run)["hit@10"]
    noise = 4 * (0.05 / USERS) ** 0.5
    assert abs(hits["ours"] - hits["ours", "renumbered"]) < noise
    assert hits["whole"] - hits["whole", "renumbered"] > 3 * noise, hits


def whole_sequences(data: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """User and item of every click, the held-out ones too."""
    (users,) = users_in_order(data, manifest, "pretrain", rank=0, world_size=1, at_once=USERS)[1]
    return np.repeat(users.index, users.lengths), users.items
