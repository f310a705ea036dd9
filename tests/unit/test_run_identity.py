"""Which prepared data a run fits: the one with the same items in the same order, and the attribute values it uses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppr_dist import run_checks, runs
from ppr_dist.config import Config, Train
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.prepare import shard_writer
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.content import ids_sha256
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.errors import UserError
from ppr_dist.run_checks import check_catalogue, check_held_out
from ppr_dist.runs import RunInfo, describe
from tests.click_logs import make_log, save
from tests.multirank.models import LABELS
from tests.settings import parts

LOG, PROFILE = make_log(users=60)


def made(folder: Path, log: pd.DataFrame = LOG, profile: pd.DataFrame = PROFILE, **options: Any) -> Manifest:
    return prepare(*save(folder, log, profile), folder / "data", PrepareConfig(**options), overwrite=True)


def infos(folder: Path, manifest: Manifest) -> tuple[RunInfo, RunInfo]:
    """A pre-trained run and a tuned one."""
    return describe("pretrain", None, folder / "data", manifest), describe(
        "tune", "ppr-full", folder / "data", manifest
    )


def one_more_click() -> pd.DataFrame:
    row = LOG[LOG.user_id == LOG.user_id.mode()[0]].iloc[[0]]
    return pd.concat([LOG, row.assign(timestamp=99)])


FITS: dict[str, dict[str, Any]] = {
    "one more click": {"log": one_more_click()},
    "another tune/test share": {"tune_test_fraction": 0.5},
    "another user without clicks": {"profile": pd.concat([PROFILE, PROFILE[-1:].assign(user_id=5)], ignore_index=True)},
    "other shards": {"users_per_member": 16},
}
OTHER_ITEMS: dict[str, dict[str, Any]] = {
    "another order": {"seed": 1},
    "an item more": {"log": pd.concat([LOG, LOG[:1].assign(item_id=7)])},
    "an item less": {"log": LOG[LOG.item_id != LOG.item_id[0]]},
    "an item for another": {"log": LOG.replace({"item_id": {LOG.item_id[0]: 7}})},
}
OTHER_VALUES: dict[str, dict[str, Any]] = {
    "another bucketing": {"buckets": {"age": 3}},
    "a value less": {"profile": PROFILE.replace({"city": {"Rome": "Oslo"}})},
    "a value for another": {"profile": PROFILE.replace({"city": {"Rome": "Roma"}})},
}


@pytest.mark.parametrize("change", FITS)
def test_what_leaves_the_catalogue_alone(change: str, tmp_path: Path) -> None:
    # Which categories are rare is a question of the users that tune.
    for info in infos(tmp_path, made(tmp_path, min_attribute_count=0)):
        changed = made(tmp_path, min_attribute_count=0, **FITS[change])
        check_catalogue(info, Config(), Path("run"), changed, tmp_path / "data")


@pytest.mark.parametrize("change", OTHER_ITEMS)
def test_other_items(change: str, tmp_path: Path) -> None:
    pretrained, tuned = infos(tmp_path, made(tmp_path))
    changed = made(tmp_path, **OTHER_ITEMS[change])
    for info, again in ((pretrained, "pre-train again"), (tuned, "pre-train and tune again")):
        with pytest.raises(
            UserError, match=f"data was prepared again since run .* other items .*: {again}$"
        ) as refused:
            check_catalogue(info, Config(), Path("run"), changed, tmp_path / "data")
        assert "\n" not in str(refused.value)
        with pytest.raises(UserError, match="run was trained on another catalogue"):
            check_catalogue(info, Config(), Path("run"), changed, tmp_path / "elsewhere")


@pytest.mark.parametrize("change", OTHER_VALUES)
def test_other_values_matter_to_who_uses_them(change: str, tmp_path: Path) -> None:
    pretrained, tuned = infos(tmp_path, made(tmp_path))
    changed = made(tmp_path, **OTHER_VALUES[change])
    check_catalogue(pretrained, Config(), Path("run"), changed, tmp_path / "data")
    with pytest.raises(UserError, match=r"data was prepared again since run .* values of attribute '\w+': tune again"):
        check_catalogue(tuned, Config(), Path("run"), changed, tmp_path / "data")
    with pytest.raises(UserError, match=r"run was tuned with other values of attribute '\w+'"):
        check_catalogue(tuned, Config(), Path("run"), changed, tmp_path / "elsewhere")
    fewer = made(tmp_path, attributes="age")
    check_catalogue(pretrained, Config(), Path("run"), fewer, tmp_path / "data")
    with pytest.raises(UserError, match=r"run was tuned with attributes age, city, but .*data has age: tune again"):
        check_catalogue(tuned, Config(), Path("run"), fewer, tmp_path / "data")


def test_values_matter_to_a_run_that_was_pre_trained_to_predict_them(tmp_path: Path) -> None:
    pretrained, _ = infos(tmp_path, made(tmp_path))
    predicts = Config(train=Train(objectives=["softmax", "attribute"]), parts=parts(attribute={"name": "city"}))
    check_catalogue(pretrained, predicts, Path("run"), made(tmp_path, **OTHER_VALUES["another bucketing"]), tmp_path)
    changed = made(tmp_path, **OTHER_VALUES["a value for another"])
    with pytest.raises(UserError, match=r"was prepared again since .* values of attribute 'city': pre-train again"):
        check_catalogue(pretrained, predicts, Path("run"), changed, tmp_path / "data")
    with pytest.raises(UserError, match=r"run was pre-trained with attributes age, city, but .* has age: pre-train"):
        check_catalogue(pretrained, predicts, Path("run"), made(tmp_path, attributes="age"), tmp_path / "data")


def test_a_run_is_not_resumed_to_predict_another_attribute(tmp_path: Path) -> None:
    info, run = infos(tmp_path, made(tmp_path))[0], tmp_path / "run"
    predicts, another = (
        Config(train=Train(objectives=["attribute"]), parts=parts(attribute={"name": name})) for name in ("city", "age")
    )
    runs.create(run, predicts, info, {}, resume=False)
    (run / "checkpoints" / "step-00000001").mkdir()
    run_checks.check_new(run, predicts, info, resume=True)
    for config, asked in ((another, "age"), (Config(), "no attribute")):
        with pytest.raises(UserError, match=f"run predicts city; it cannot be resumed to predict {asked}$"):
            run_checks.check_new(run, config, info, resume=True)


def test_labels_matter_to_a_run_that_predicts_them(tmp_path: Path) -> None:
    spaces, info = LABELS, dataclasses.replace(infos(tmp_path, manifest := made(tmp_path))[0], labels=LABELS)
    data = tmp_path / "data"
    answer, both = (
        Config(train=Train(objectives=["softmax", "labels"]), parts=parts(labels={"names": names} if names else {}))
        for names in (["answer"], None)
    )
    others = dataclasses.replace(spaces[1], values="others")
    for config, found, refused in (
        (answer, spaces, None),
        (answer, (spaces[0], others), None),
        (both, (*spaces, dataclasses.replace(others, name="more")), None),
        (both, (spaces[0], others), "orders"),
        (answer, spaces[1:], "answer"),
    ):
        changed = dataclasses.replace(manifest, labels=found)
        if refused is None:
            check_catalogue(info, config, Path("run"), changed, data)
            continue
        with pytest.raises(UserError, match=f"run was trained with other labels '{refused}' than .*: pre-train again$"):
            check_catalogue(info, config, Path("run"), changed, data)

    run = tmp_path / "run"
    runs.create(run, answer, info, {}, resume=False)
    assert runs.read(run)[1] == info
    (run / "checkpoints" / "step-00000001").mkdir()
    run_checks.check_new(run, answer, info, resume=True)
    with pytest.raises(
        UserError, match=r"predicts labels 'answer'; it cannot be resumed to predict labels 'answer', labels 'orders'$"
    ):
        run_checks.check_new(run, both, info, resume=True)


def test_another_writer_writes_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(tmp_path)
    before = (tmp_path / "data" / "items.parquet").read_bytes()
    writer = pq.ParquetWriter

    def newer(path: Path, schema: pa.Schema, **options: Any) -> pq.ParquetWriter:
        return writer(path, schema, **options | {"compression": "snappy", "write_page_index": True})

    monkeypatch.setattr(pq, "ParquetWriter", newer)
    monkeypatch.setattr(shard_writer, "ROWS", 7)
    assert made(tmp_path) == first
    assert (tmp_path / "data" / "items.parquet").read_bytes() != before


def test_pre_training_that_saw_cold_users_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrained, tuned = infos(tmp_path, made(tmp_path))
    for options, said in (
        ({"simulate_cold": 0.2}, "simulate_cold 0.0 then, 0.2"),
        ({"cold_threshold": 12}, "10 then, 12"),
    ):
        changed = made(tmp_path, **options)  # type: ignore[arg-type]
        for info in (pretrained, tuned):
            with pytest.raises(UserError, match=f"data was prepared again since, .*{said} now.*pre-train again"):
                check_held_out(info, Path("run"), changed, tmp_path / "data")
            with pytest.raises(UserError, match=f"elsewhere has other cold users than run .*{said} now"):
                check_held_out(info, Path("run"), changed, tmp_path / "elsewhere")
    changed = made(tmp_path, tune_test_fraction=0.5)
    capsys.readouterr()  # on a slow machine prepare shows how far it is
    check_held_out(pretrained, Path("run"), changed, tmp_path / "data")
    assert capsys.readouterr().err == ""
    check_held_out(tuned, Path("run"), changed, tmp_path / "data")
    assert "run was tuned with tune_test_fraction 0.2" in capsys.readouterr().err
    changed = made(tmp_path, tune_test_fold=2)
    check_held_out(pretrained, Path("run"), changed, tmp_path / "data")
    with pytest.raises(UserError, match=r"run was tuned on the users that .*data tests .tune_test_fold 1 then, 2 now"):
        check_held_out(tuned, Path("run"), changed, tmp_path / "data")


def test_a_run_of_an_older_version_is_named(tmp_path: Path) -> None:
    info = infos(tmp_path, made(tmp_path))[0]
    runs.create(tmp_path / "run", Config(), info, {}, resume=False)
    assert runs.read(tmp_path / "run")[1] == info
    body = dataclasses.asdict(info)
    body["job"] = body.pop("stage")
    (tmp_path / "run" / "run.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="run: written by an earlier version of ppr_dist; train again"):
        runs.read(tmp_path / "run")


def test_a_hash_of_ids_is_of_the_ids_alone() -> None:
    words = ["", "a", "bc", "Århus", "d" * 50]
    whole = pa.array(words)
    same = [
        [whole],
        [whole[:2], whole[2:]],
        [pa.array(words, pa.large_string())],
        [pa.array(["x", *words])[1:]],
        [whole[:0], whole],
    ]
    assert len({ids_sha256(chunks) for chunks in same}) == 1
    numbers = np.arange(5) + 2**40
    others = [["a", "", "bc", "Århus", "d" * 50], ["", "ab", "c", "Århus", "d" * 50], words[::-1], words[:-1], numbers]
    hashes = {ids_sha256([pa.array(other)]) for other in [words, *others, numbers[::-1]]}
    assert len(hashes) == 7
    assert ids_sha256([pa.array(numbers)]) == ids_sha256([pa.array(numbers[:2]), pa.array(numbers[2:])])
