"""The fractal expansion: same bytes, the counts of a Kronecker product, order, profiles, and the shape it keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.synthetic import fractal
from ppr_dist.data.synthetic.catalogue import SyntheticConfig, generate
from ppr_dist.data.synthetic.fractal import expand, main
from ppr_dist.data.synthetic.fractal_base import FractalConfig, probabilities, read_base, reduced
from ppr_dist.errors import UserError
from tests.click_logs import make_log, save

A, B = 4, 12
CONFIG = FractalConfig(factor_users=A, factor_items=B, activity=1.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the paths of a log in which no user clicks an item twice, and of its profiles."""
    folder = tmp_path_factory.mktemp("base") / "log"
    generate(SyntheticConfig(users=500, items=250, topics=8), folder)
    log = pd.read_parquet(folder / "interactions.parquet").drop_duplicates(["user_id", "item_id"])
    log["item_id"] = np.random.default_rng(0).permutation(250)[log.item_id]  # or a small id would be a popular item
    log.to_parquet(folder / "interactions.parquet", index=False)
    return str(folder / "interactions.parquet"), str(folder / "users.parquet")


@pytest.fixture(scope="module")
def expanded(base: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    out = tmp_path_factory.mktemp("expanded") / "log"
    clicks = expand(*base, CONFIG, out)
    log = pd.read_parquet(out / "interactions.parquet")
    assert len(log) == clicks
    return log, pd.read_parquet(out / "users.parquet")


def test_same_input_and_seed_same_bytes_and_another_seed_others(base: tuple[str, str], tmp_path: Path) -> None:
    # The order of the rows in the files is not part of the input.
    mixed = [tmp_path / "interactions.parquet", tmp_path / "users.parquet"]
    for path, copy in zip(base, mixed, strict=True):
        table = pq.read_table(path)
        pq.write_table(table.take(np.random.default_rng(0).permutation(table.num_rows)), copy)
    expand(*base, FractalConfig(factor_users=2, factor_items=3), tmp_path / "a")
    expand(str(mixed[0]), str(mixed[1]), FractalConfig(factor_users=2, factor_items=3), tmp_path / "b")
    expand(*base, FractalConfig(factor_users=2, factor_items=3, seed=1), tmp_path / "c")
    for file in ("interactions.parquet", "users.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    other = (tmp_path / "c" / "interactions.parquet").read_bytes()
    assert (tmp_path / "a" / "interactions.parquet").read_bytes() != other


def test_chunks_do_not_show(
    base: tuple[str, str],
    expanded: tuple[pd.DataFrame, pd.DataFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fractal, "CELLS", 333)
    expand(*base, CONFIG, tmp_path / "pieces")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "pieces" / "interactions.parquet"), expanded[0])


def test_one_by_one_is_the_log_itself(base: tuple[str, str], tmp_path: Path) -> None:
    expand(*base, FractalConfig(factor_users=1, factor_items=1), tmp_path / "log")
    got, log = pd.read_parquet(tmp_path / "log" / "interactions.parquet"), pd.read_parquet(base[0])
    log = log.sort_values(["user_id", "timestamp"])
    assert got.user_id.tolist() == log.user_id.tolist()  # the raw ids of this log are 0, 1, …
    assert got.item_id.tolist() == pd.factorize(log.item_id, sort=True)[0].tolist()
    assert got.position.tolist() == log.groupby("user_id").cumcount().tolist()
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "log" / "users.parquet"), pd.read_parquet(base[1]), check_column_type=False
    )


def test_counts_are_those_of_the_kronecker_product(
    base: tuple[str, str], expanded: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    log, users = expanded
    small = read_base(*base)
    matrix = np.zeros((small.users, small.items))
    np.add.at(matrix, (np.repeat(np.arange(small.users), np.diff(small.offsets)), small.item), 1)
    assert matrix.max() == 1
    p = np.kron(probabilities(small, CONFIG), matrix)  # [a U, b I], the probability of each cell
    clicks = np.zeros_like(p)
    np.add.at(clicks, (log.user_id, log.item_id), 1)
    assert len(users) == A * small.users
    assert clicks.max() == 1  # never a click twice
    assert (p[clicks > 0] > 0).all()  # never one the product does not have
    assert probabilities(small, CONFIG).sum() == pytest.approx(A * 1.5)

    def misfit(*axes: int) -> float:
        """The largest deviation of a sum from its expectation, in standard deviations."""
        deviation = np.abs(clicks.sum(axes) - p.sum(axes)) / np.sqrt((p * (1 - p)).sum(axes) + 1.0)
        return float(deviation.max())

    assert misfit(0, 1) < 3
    assert misfit(1) < 5  # of 2,000 users
    assert misfit(0) < 5  # of 3,000 items
    blocks = (clicks - p).reshape(A, small.users, B, small.items).sum(axis=(1, 3))
    variance = (p * (1 - p)).reshape(A, small.users, B, small.items).sum(axis=(1, 3))
    assert (np.abs(blocks) < 4 * np.sqrt(variance + 1)).all()


def test_a_user_walks_through_the_clicks_in_order(
    base: tuple[str, str], expanded: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    log, small = expanded[0], read_base(*base)
    assert log.dtypes.astype(str).tolist() == ["int64"] * 3
    assert log.user_id.is_monotonic_increasing
    assert log.position.tolist() == log.groupby("user_id").cumcount().tolist()
    owner = np.repeat(np.arange(small.users), np.diff(small.offsets))
    place = pd.Series(np.arange(len(owner)), index=pd.MultiIndex.from_arrays([owner, small.item]))
    walked = place[pd.MultiIndex.from_arrays([log.user_id % small.users, log.item_id % small.items])].to_numpy()
    same_user = np.diff(log.user_id) == 0
    assert (np.diff(walked)[same_user] >= 0).all()
    # The copies of one click are in random order, not by block.
    copies = same_user & (np.diff(walked) == 0)
    assert copies.sum() > 1000
    assert 0.4 < (np.diff(log.item_id)[copies] > 0).mean() < 0.6


@pytest.mark.exhaustive
def test_shape_is_kept(base: tuple[str, str], expanded: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    (log, users), raw, profiles = expanded, pd.read_parquet(base[0]), pd.read_parquet(base[1])
    for column in ("age", "gender", "city"):
        counts = users[column].value_counts(dropna=False)
        pd.testing.assert_series_equal(counts, A * profiles[column].value_counts(dropna=False), check_like=True)

    def slope(ids: pd.Series) -> float:
        """Of log clicks over log rank, at ranks evenly spaced in log between 1 % and 50 % of all."""
        counts = ids.value_counts().to_numpy()
        rank = np.unique(np.geomspace(0.01 * len(counts), 0.5 * len(counts), 40).astype(int) + 1)
        return float(np.polyfit(np.log(rank), np.log(counts[rank - 1]), 1)[0])

    assert abs(slope(log.item_id) - slope(raw.item_id)) < 0.2
    assert abs(slope(log.user_id) - slope(raw.user_id)) < 0.2
    # What a city's users click, copies taken together: the same share of each item.
    items = np.unique(raw.item_id)
    table = []
    for clicks, people, item in ((log, users, items[log.item_id % len(items)]), (raw, profiles, raw.item_id)):
        city = people.set_index("user_id").city[clicks.user_id].to_numpy()
        table.append(pd.crosstab(city, np.asarray(item), normalize="index"))
    assert np.abs(table[0] - table[1]).to_numpy().sum(axis=1).mean() < 0.25  # 0.98 for another city's


def test_reduced_matrix_has_the_largest_singular_values_and_the_product_their_products(base: tuple[str, str]) -> None:
    small = read_base(*base)
    matrix = np.zeros((small.users, small.items))
    np.add.at(matrix, (np.repeat(np.arange(small.users), np.diff(small.offsets)), small.item), 1)
    truth = np.linalg.svd(matrix, compute_uv=False)
    got = np.linalg.svd(reduced(small, CONFIG), compute_uv=False)
    assert got == pytest.approx(truth[:A], rel=0.02)
    p = probabilities(small, CONFIG)
    products = np.sort(np.outer(np.linalg.svd(p, compute_uv=False), truth).ravel())[::-1]
    gram = np.kron(p @ p.T, matrix @ matrix.T)
    assert np.sqrt(np.linalg.eigvalsh(gram)[::-1][:50]) == pytest.approx(products[:50])
    # The groups of the most popular items and of the most active users lead.
    assert p.sum(axis=0)[0] == p.sum(axis=0).max() > 2 * p.sum(axis=0).min()
    assert p.sum(axis=1)[0] == p.sum(axis=1).max() > 1.2 * p.sum(axis=1).min()


def test_a_cap_leaves_the_later_clicks_out(
    base: tuple[str, str], expanded: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    capped = FractalConfig(factor_users=A, factor_items=B, activity=1.5, max_clicks=7)
    expand(*base, capped, tmp_path / "log")
    whole = expanded[0]
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "log" / "interactions.parquet"), whole[whole.position < 7].reset_index(drop=True)
    )


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_text_ids_ties_and_strangers_and_prepare_reads_it(tmp_path: Path, kind: str) -> None:
    log, profile = make_log()
    log["item_id"] = "item " + log.item_id.astype(str)
    profile["u"] = profile.age  # a name of the queries' own
    interactions, users = save(tmp_path, log, profile, kind)
    assert users is not None
    expand(interactions, users, FractalConfig(factor_users=3, factor_items=5), tmp_path / "big")
    people = pd.read_parquet(tmp_path / "big" / "users.parquet")
    names = sorted({*log.user_id, *profile.user_id})
    assert people.user_id.tolist() == list(range(3 * len(names)))
    truth = profile.set_index("user_id").city.reindex(names)
    city = people.city.to_numpy().reshape(3, -1)
    for row in city:
        assert [None if pd.isna(c) else c for c in row] == [None if pd.isna(c) else c for c in truth]
    manifest = prepare(
        str(tmp_path / "big" / "interactions.parquet"),
        str(tmp_path / "big" / "users.parquet"),
        tmp_path / "data",
        PrepareConfig(),
    )
    assert manifest.item_id_type == "int64"
    assert manifest.items <= 5 * log.item_id.nunique()
    assert [a.name for a in manifest.attributes] == ["age", "city", "u"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--factor-users", "0"], "factor_users must be at least 1"),
        (["--factor-users", "501"], "factor_users must be no more than the 500 in the log"),
        (["--factor-items", "9999"], "factor_items must be no more than the 2"),
        (["--factor-items", "1.5"], "--factor-items"),
        (["--activity", "1000"], "activity must be at most"),
        (["--activity", "0"], "activity must be positive"),
        (["--activity", "nan"], "activity"),
        (["--max-clicks", "0"], "max_clicks must be at least 1"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--factor", "2"], "factor"),
        (["--users", "nowhere.parquet"], "nowhere.parquet: no such file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    base: tuple[str, str], tmp_path: Path, flags: list[str], said: str
) -> None:
    files = ["--interactions", base[0], "--users", base[1], "--out", str(tmp_path / "log")]
    with pytest.raises(UserError, match=said) as error:
        main([*files, "--factor-users", "2", "--factor-items", "2", *flags])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_never_replaced(base: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="lies inside --out"):
        expand(*base, FractalConfig(factor_users=2, factor_items=2), Path(base[0]).parent, overwrite=True)
    assert Path(base[0]).is_file()
