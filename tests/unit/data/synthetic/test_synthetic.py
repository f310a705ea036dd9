"""The synthetic catalogue: same bytes, stated shape, and the signal it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppr_dist.data.synthetic import catalogue as synthetic
from ppr_dist.data.synthetic.catalogue import SyntheticConfig, generate
from ppr_dist.errors import UserError


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    out = tmp_path_factory.mktemp("synthetic") / "log"
    assert generate(SyntheticConfig(users=4000, items=2000), out) > 0
    return pd.read_parquet(out / "interactions.parquet"), pd.read_parquet(out / "users.parquet")


def test_same_options_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate(SyntheticConfig(users=300, items=100, seed=seed), tmp_path / name)
    for file in ("interactions.parquet", "users.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SyntheticConfig(users=500, items=100)
    generate(config, tmp_path / "whole")
    monkeypatch.setattr(synthetic, "CELLS", 60 * 37)
    generate(config, tmp_path / "pieces")
    for file in ("interactions.parquet", "users.parquet"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(tmp_path / "whole" / file), pd.read_parquet(tmp_path / "pieces" / file)
        )


def test_shape_of_the_log(clicks: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    log, users = clicks
    length = log.groupby("user_id").size()
    assert length.index.tolist() == list(range(4000))
    assert length.min() >= 2
    assert length.max() <= 60
    assert abs((length < 10).mean() - 0.3) < 0.04
    assert log.dtypes.astype(str).tolist() == ["int64"] * 3
    assert log.item_id.between(0, 1999).all()
    # Strictly increasing in time within a user: the order is never a tie.
    assert (log.timestamp.diff()[log.user_id.diff() == 0] > 0).all()
    assert users.user_id.tolist() == list(range(4000))
    assert users.age.dropna().between(18, 77).all()
    for column in ("age", "gender", "city"):
        assert abs(users[column].isna().mean() - 0.1) < 0.03


def test_history_order_and_profile_carry_signal(clicks: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    log, users = clicks
    topics = SyntheticConfig().topics
    previous = log.groupby("user_id").item_id.shift()
    step = log[previous.notna()].assign(previous=previous.dropna().astype(np.int64))
    same_topic = step.item_id % topics == step.previous % topics
    neighbour = step.item_id - step.previous == topics
    assert abs(neighbour.mean() - 0.35) < 0.1  # order
    assert same_topic.mean() > 0.65  # history
    top = log.item_id.value_counts().index[:10]
    popularity = log.item_id.isin(top).mean()
    assert 0.03 < popularity < 0.25
    # Profile alone: the ten best items of a city, counted on half of the users, hit the others' first clicks.
    joined = log.merge(users, on="user_id").dropna(subset=["city"])
    train, test = joined[joined.user_id % 2 == 0], joined[joined.user_id % 2 == 1]
    first = test[test.groupby("user_id").cumcount() == 0]
    best = train.groupby("city").item_id.agg(lambda item: set(item.value_counts().index[:10]))
    by_profile = np.mean([item in best[city] for item, city in zip(first.item_id, first.city, strict=True)])
    assert by_profile > 1.5 * first.item_id.isin(top).mean()


def test_popularity_follows_the_stated_zipf_law() -> None:
    config = SyntheticConfig(users=10, items=1000, topics=1, zipf=1.3)
    user = np.arange(200_000, dtype=np.int64)
    rank = synthetic._rank(config, user, np.zeros_like(user), 0)
    edge = np.arange(1, 12, dtype=np.float64)
    whole = (1 - 1001.0**-0.3) / 0.3
    expected = (edge[:-1] ** -0.3 - edge[1:] ** -0.3) / 0.3 / whole
    assert np.abs(np.bincount(rank, minlength=1000)[:10] / user.size - expected).max() < 0.005
    assert rank.max() < 1000


def test_ten_million_items_need_no_table() -> None:
    config = SyntheticConfig(users=10, items=10**7, zipf=0.0)
    item = next(synthetic._items(config, np.arange(1000, dtype=np.int64), 1))
    assert item.max() > 9 * 10**6
    assert item.max() < 10**7


@pytest.mark.parametrize(
    "wrong", [{"topics": 99, "items": 9}, {"follow": 0.8}, {"max_clicks": 5}, {"cold_fraction": 2.0}]
)
def test_values_out_of_range_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        SyntheticConfig(**wrong)  # type: ignore[arg-type]


def test_an_existing_folder_is_replaced_only_when_told(tmp_path: Path) -> None:
    config = SyntheticConfig(users=10, items=50)
    generate(config, tmp_path / "log")
    with pytest.raises(UserError, match="not empty"):
        generate(config, tmp_path / "log")
    generate(config, tmp_path / "log", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("keep")
    with pytest.raises(UserError, match="holds no interactions"):
        generate(config, tmp_path / "other", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "other"]
