"""The order of a log's clicks, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.prepare import summary
from tests.click_logs import make_log, save, sequences
from tests.served import read_raw_users


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


def test_shares_are_stated_and_duplicates_left_out_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = pd.DataFrame({"user_id": [1] * 5 + [2] * 4, "item_id": [1, 2, 3, 3, 1, 4, 4, 5, 4]})
    log["timestamp"] = [5, 5, 6, 8, 9, 9, 9, 9, 10]
    twice = pd.concat([log, log.iloc[[0, 8]]])  # an exact duplicate each of (1, 1, 5) and (2, 4, 10)
    counts = {}
    for name, option in (("none", None), ("exact", "exact"), ("consecutive", "consecutive")):
        config = PrepareConfig(deduplicate=option)  # type: ignore[arg-type]
        manifest = prepare(*save(tmp_path, twice), tmp_path / name, config)
        counts[name] = manifest.clicks
        assert ("warning" in (err := capsys.readouterr().err)) == (option is None)
        assert option or "interactions.parquet: 27.3% of the rows repeat another one exactly" in err
    # User 2 clicks 4, 4 and 5 at time 9: among them (4, 4) is one duplicate more.
    assert [counts[name]["read"] for name in counts] == [11] * 3
    assert [counts[name]["duplicate"] for name in counts] == [3] * 3
    assert [counts[name]["tied"] for name in counts] == [8, 4, 4]
    assert "11 clicks; 27.27% exact duplicates (left out), 36.36% tied" in summary(manifest, "data", 1.0)
    made = {name: sequences(tmp_path / name) for name in counts}
    assert [len(made["none"][u]) for u in (1, 2)] == [6, 5]
    assert sorted(made["exact"][1][:2]) == [1, 2]
    assert made["exact"][1][2:] == [3, 3, 1]
    assert sorted(made["exact"][2][:2]) == [4, 5]
    assert made["exact"][2][2:] == [4]
    for user, clicks in made["exact"].items():
        want = [item for item, before in zip(clicks, [None, *clicks], strict=False) if item != before]
        assert made["consecutive"][user] == want
    assert counts["consecutive"]["repeated"] == sum(map(len, made["exact"].values())) - sum(
        map(len, made["consecutive"].values())
    )


@pytest.mark.parametrize("option", ["exact", "consecutive"])
def test_a_log_delivered_twice_is_the_log(tmp_path: Path, option: str) -> None:
    """Also the counts that decide who is cold, and what recommend reads."""
    log, profile = make_log()
    log = log.drop_duplicates()
    config = PrepareConfig(deduplicate=option, min_item_count=3, simulate_cold=0.3)  # type: ignore[arg-type]
    once = prepare(*save(tmp_path, log, profile), tmp_path / "once", config)
    interactions, users = save(tmp_path, pd.concat([log, log]), profile)
    twice = prepare(interactions, users, tmp_path / "twice", config)
    assert twice.splits == once.splits
    assert twice.clicks["duplicate"] == len(log)
    assert users is not None
    raw = read_raw_users(Path(users), Path(interactions), tmp_path / "twice", twice)
    kept, made = sequences(tmp_path / "twice"), pd.read_parquet(tmp_path / "twice" / "items.parquet").item_id
    compared = 0
    for row, user in enumerate(raw.ids.to_pylist()):
        mine = made[raw.all.items[raw.all.offsets[row] : raw.all.offsets[row + 1]]].tolist()
        if user in kept:
            assert mine[: len(kept[user])] == kept[user]  # a simulated cold user's clicks go on
            compared += 1
    assert compared > 100
