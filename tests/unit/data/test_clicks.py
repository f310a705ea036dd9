"""The order of a log's clicks, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.prepare_config import PrepareConfig
from ppr_dist.data.prepared import prepare
from ppr_dist.prepare import summary
from tests.unit.data.click_logs import read_split, save


def sequences(data: Path) -> dict[object, list[object]]:
    """Raw user → raw items, oldest first, of all splits."""
    manifest = load_manifest(data)
    user = pd.read_parquet(data / "users.parquet").user_id.to_numpy()
    item = pd.read_parquet(data / "items.parquet").item_id.to_numpy()
    frame = pd.concat([read_split(data, manifest, split) for split in manifest.splits])
    return {
        user[u]: item[np.asarray(i, np.int64)].tolist()
        for u, i in zip(frame.user.astype(int), frame["items"], strict=True)
    }


@pytest.mark.parametrize("text", [False, True])
def test_ties_say_nothing_of_ids(tmp_path: Path, text: bool) -> None:
    """Four clicks per time, drawn at random: of two that tie, either is first as often, whatever their ids."""
    rng = np.random.default_rng(0)
    users, clicks = 1500, 12
    item = np.stack([rng.permutation(1000)[:clicks] for _ in range(users)])  # [users, clicks]
    log = pd.DataFrame({"user_id": np.repeat(np.arange(users), clicks), "item_id": item.ravel()})
    log["timestamp"] = np.arange(len(log)) % clicks // 4
    if text:
        log["item_id"] = "i" + log.item_id.astype(str).str.zfill(4)
    first: dict[int, dict[object, list[object]]] = {}
    for seed in (0, 1):
        prepare(*save(tmp_path, log), tmp_path / f"{seed}", PrepareConfig(seed=seed, simulate_cold=0.3))
        first[seed] = sequences(tmp_path / f"{seed}")
        together = pd.DataFrame([s[:4] for s in first[seed].values()])
        for early in range(4):
            for late in range(early):
                rising = (together[late] < together[early]).mean()
                assert abs(rising - 0.5) < 4 * 0.5 / users**0.5
        # The cut at 9 takes any one of the third four.
        cut = [s for s in first[seed].values() if len(s) == 9]
        assert len(cut) == 450
        four = {u: sorted(g) for u, g in log[log.timestamp == 2].groupby("user_id").item_id}
        place = [four[u].index(s[8]) for u, s in first[seed].items() if len(s) == 9]
        assert np.bincount(place, minlength=4).min() > 450 / 4 - 4 * (450 * 3 / 16) ** 0.5
    agree = np.mean([first[0][u][:4] == first[1][u][:4] for u in first[0]])
    assert agree < 0.1  # 1 / 4! by chance


def test_the_share_of_ties_is_stated(tmp_path: Path) -> None:
    log = pd.DataFrame({"user_id": [1] * 4 + [2] * 4, "item_id": range(8), "timestamp": [5, 5, 6, 7, 5, 8, 8, 8]})
    manifest = prepare(*save(tmp_path, log), tmp_path / "data", PrepareConfig())
    assert load_manifest(tmp_path / "data").clicks == {"read": 8, "tied": 5}
    assert "8 clicks; 62.50%" in summary(manifest, "data", 1.0)
