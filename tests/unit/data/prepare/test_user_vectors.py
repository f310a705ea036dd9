"""Vectors of users, from the file to what the prompt generator reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.config import Config, Model, Profiles
from ppr_dist.data.manifest import UserVectors, load_manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.prepare.raw_users import load_raw_users
from ppr_dist.data.prepare.sources import connect
from ppr_dist.data.prepare.user_vectors import RawVectors
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.data.stream.users import Users
from ppr_dist.errors import UserError
from ppr_dist.run_checks import check_catalogue
from ppr_dist.runs import RunInfo, describe
from ppr_dist.tuning import TUNING_METHODS
from tests.settings import collator

PEOPLE, KNOWN, WIDTH = 30, 20, 5


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clicks and profiles of 30 users, vectors of 20 of them and of two others; folders prepared of them."""
    raw, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    counts = rng.integers(2, 14, PEOPLE)
    log = pd.DataFrame({"user_id": np.repeat(np.arange(PEOPLE), counts), "item_id": rng.integers(0, 9, counts.sum())})
    log.assign(position=np.arange(len(log))).to_parquet(raw / "log.parquet")
    pd.DataFrame({"user_id": range(PEOPLE), "city": rng.integers(0, 2, PEOPLE)}).to_parquet(raw / "users.parquet")
    ids = np.append(rng.permutation(PEOPLE)[:KNOWN], [77, 78])
    vectors = pd.DataFrame({"user_id": ids, "vector": list(rng.normal(size=(KNOWN + 2, WIDTH)))})
    vectors.to_parquet(raw / "vectors.parquet")
    vectors.sample(frac=1, random_state=1).to_parquet(raw / "permuted.parquet")
    users, config = str(raw / "users.parquet"), PrepareConfig(users_per_member=4, members_per_shard=2)
    for out, profiles, given in (
        ("data", users, "vectors"),
        ("again", users, "permuted"),
        ("plain", users, None),
        ("no-attributes", None, "vectors"),
    ):
        of_users = given and str(raw / f"{given}.parquet")
        prepare(str(raw / "log.parquet"), profiles, raw / out, config, user_vectors=of_users)
    return raw


def vectors_of(raw: Path, ids: Iterable[int]) -> npt.NDArray[np.float16]:
    """The file's, in half precision; zeros where it has none."""
    file = pd.read_parquet(raw / "vectors.parquet").set_index("user_id").vector
    return np.array([file.get(each, np.zeros(WIDTH)) for each in ids], np.float16)


def users_of(folder: Path, split: str) -> Users:
    _, blocks = users_in_order(folder, load_manifest(folder), split, rank=0, world_size=1, at_once=PEOPLE)
    return next(blocks)


def test_each_user_has_the_vector_of_the_file_and_others_zeros_whatever_the_order_of_its_rows(raw: Path) -> None:
    manifest = load_manifest(raw / "data")
    assert manifest.user_vectors == UserVectors(columns=WIDTH, known=KNOWN)
    ids = pd.read_parquet(raw / "data" / "users.parquet").user_id.to_numpy()
    for split in ("pretrain", "tune-train", "tune-test"):
        users = users_of(raw / "data", split)
        np.testing.assert_array_equal(users.vectors, vectors_of(raw, ids[users.index]))
    assert load_manifest(raw / "again").fingerprint == manifest.fingerprint


def test_data_without_vectors_says_nothing_of_them(raw: Path) -> None:
    assert load_manifest(raw / "plain").user_vectors is None
    assert "user_vectors" not in json.loads((raw / "plain" / "manifest.json").read_text())
    assert users_of(raw / "plain", "pretrain").vectors is None


@pytest.mark.parametrize("data", ["data", "no-attributes"])
@pytest.mark.parametrize("method", ["ppr-light", "melu", "fine-tune"])
def test_a_vector_reaches_what_reads_profiles_behind_the_attributes(method: str, data: str, raw: Path) -> None:
    """Its exact values, in training and in evaluation."""
    info = describe("tune", method, raw, load_manifest(raw / data))
    config = Config(model=Model(dim=8, max_length=5), profiles=Profiles(attribute_dim=3))
    catalogue = info.catalogue_for(config)
    model = untuned_model(config, catalogue)
    attach(model, method, config, catalogue)
    users = users_of(raw / data, "tune-train")
    ids = pd.read_parquet(raw / data / "users.parquet").user_id.to_numpy()
    training = collator({}, info.items, max_length=5, first_target=0)
    batches = [training(users, epoch=0, step=0, global_users=len(users))]
    batches.append(history_batch(Instances(users, np.arange(len(users)), users.lengths), 5))
    seen: list[torch.Tensor] = []
    attributes_width = 3 * len(catalogue.profile)
    if method == "melu":
        model.user_model.register_forward_pre_hook(lambda _, given: seen.append(given[2]["melu"]))
    else:
        reads = model.get_submodule({"ppr-light": "prompt", "fine-tune": "profile_encoder"}[method])
        reads.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for batch in batches:
        x = torch.randn(len(batch.users), attributes_width)
        profiles = dict.fromkeys(TUNING_METHODS[method].profile_uses, x) if attributes_width else {}
        rows = len(batch.item_ids) + (256 if method == "melu" else 0)
        model.eval()(torch.randn(rows, 8), batch, profiles)
        vectors = torch.from_numpy(vectors_of(raw, ids[batch.users.numpy()])).float()
        assert torch.equal(seen.pop(), torch.cat([x, vectors], 1))
        assert not seen


def test_served_users_have_the_same_vectors(raw: Path) -> None:
    files = (raw / "users.parquet", raw / "log.parquet", raw / "data", load_manifest(raw / "data"), raw / "work")
    served = load_raw_users(*files, user_vectors=raw / "vectors.parquet")
    ids, users = served.read(3, 21)
    np.testing.assert_array_equal(users.vectors, vectors_of(raw, ids.to_pylist()))
    wide = pd.DataFrame({"user_id": [0], "vector": [[0.5]]})
    wide.to_parquet(raw / "wide.parquet")
    with pytest.raises(UserError, match=r"wide.parquet: vectors of 1 numbers, and .*data has 5$"):
        load_raw_users(*files, user_vectors=raw / "wide.parquet")


def test_a_run_tuned_with_vectors_refuses_data_without(raw: Path) -> None:
    data, plain = load_manifest(raw / "data"), load_manifest(raw / "plain")
    info = describe("tune", "fine-tune", raw / "data", data)
    check_catalogue(info, Config(), Path("run"), data, raw / "data")
    with pytest.raises(UserError, match=r"^run was tuned with vectors of users of 5 numbers, but .*plain has none:"):
        check_catalogue(info, Config(), Path("run"), plain, raw / "plain")
    pretrained = describe("pretrain", None, raw / "data", data)
    check_catalogue(pretrained, Config(), Path("run"), plain, raw / "plain")  # which reads none


def _twice(file: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([file, file.iloc[:1]])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_twice, r"user \d+ stands there more than once"),
        (lambda file: file.assign(user_id=file.user_id + 1000), "none of its users is in the data"),
        (lambda file: file.assign(user_id=file.user_id.map("u{}".format)), "user ids are string, but int64 in the log"),
        (lambda file: file.assign(vector=[row[: 4 + n % 2] for n, row in enumerate(file.vector)]), "are of 4 to 5 num"),
        (lambda file: file.assign(vector=[row * 1e6 for row in file.vector]), "not finite in half precision"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    change: Callable[[pd.DataFrame], pd.DataFrame], says: str, raw: Path, tmp_path: Path
) -> None:
    change(pd.read_parquet(raw / "vectors.parquet")).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(UserError, match=f"bad.parquet: .*{says}"):
        _read(tmp_path / "bad.parquet")


def _read(path: Path) -> None:
    with connect() as con:
        con.execute(f"CREATE TABLE people AS SELECT range AS user_index, range AS user_id FROM range({PEOPLE})")
        vectors = RawVectors(con, str(path), "user_id", "int64")
        vectors.index("user_index")
        vectors.of(np.arange(PEOPLE))


def test_the_description_of_a_run_of_before_has_none() -> None:
    body = {"data": "d", "fingerprint": "f", "catalogue": {}, "items": 3, "attributes": {}}
    assert RunInfo(stage="tune", method="fine-tune", **body).user_vectors == 0  # type: ignore[arg-type]
