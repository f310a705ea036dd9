"""A run tuned on a catalogue without its items and users: what is carried over, what begins anew, what is refused.

Of even items there is a text, of odd ones an image (``features`` of two names, as of two modalities).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppr_dist import run_checks, runs
from ppr_dist.checkpoint import reader
from ppr_dist.checkpoint.position import checkpoints
from ppr_dist.config import Config, Model
from ppr_dist.data.manifest import load_manifest
from ppr_dist.errors import UserError
from tests.commands import run_command, succeed
from tests.oracle import tensors

ITEM = "tables.items.embeddings.item.weight"
TINY = {
    "prompt": {"hidden": 16},
    "profiles": {"attribute_dim": 16},
    "softmax": {"uniform_negatives": 16},
    "train": {"global_batch_size": 16, "epochs": 2, "lr": 1e-2},
    "logging": {"progress": False},
}
STILL = {"train": {**TINY["train"], "max_steps": 1, "lr": 1e-30}, "tables": {"lr": 0.0}}
RUN = f"""
import json
from ppr_dist.library import encode_users, evaluate, prepare, pretrain, tune
tiny, still = {TINY}, {STILL}
for name, more in {{"source": {{}}, "renumbered": {{"seed": 1}}, "target": {{}}}}.items():
    of = "target" if name == "target" else "source"
    features = {{"text": of + "-text.parquet", "image": of + "-image.parquet"}}
    prepare(interactions=of + ".parquet", users=of + "-users.parquet", item_features=features, out=name, **more)
for name, encoders in {{"both": ["id", "features"], "features": ["features"]}}.items():
    model = {{"item_encoders": encoders, "dim": 16, "max_length": 12}}
    pretrain(data="source", run_dir=name, model=model, sasrec={{"layers": 1}}, **tiny)
new = {{"data": "target", "new_catalogue": True, "split": ["pretrain"]}}
tune(init="both", method="fine-tune", run_dir="start", **new, **{{**tiny, **still}})
tune(init="both", method="patch", run_dir="patch", **new, **tiny)
again = {{**new, "data": "renumbered"}}
tune(init="features", method="patch", run_dir="again", **again, **{{**tiny, **still}})
for run in ("features", "again"):
    encode_users(run_dir=run, out=run + ".vectors", progress=False)
print(json.dumps(evaluate(run_dir="patch", task=["next-item", "few-shot"], protocol="full", progress=False)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of ``RUN`` ran; ``rows.json``: what ``evaluate`` returned."""
    folder, rng = tmp_path_factory.mktemp("catalogues"), np.random.default_rng(0)
    for name, first, items in (("source", 0, 40), ("target", 1000, 50)):
        users = first + np.arange(60)
        counts = np.where(np.arange(60) % 3, 12, 6)  # a third of them cold
        log = pd.DataFrame({"user_id": np.repeat(users, counts), "position": np.concatenate([*map(np.arange, counts)])})
        log.assign(item_id=first + rng.integers(0, items, len(log))).to_parquet(folder / f"{name}.parquet")
        profiles = pd.DataFrame({"user_id": users, "city": rng.integers(0, 3, 60)})
        profiles.to_parquet(folder / f"{name}-users.parquet")
        known = first + np.arange(items)
        for modality, width, of in (("text", 6, known[::2]), ("image", 4, known[1::2])):
            vectors = pd.DataFrame({"item_id": of, "vector": list(rng.normal(size=(len(of), width)))})
            vectors.to_parquet(folder / f"{name}-{modality}.parquet")
    code = f"import os; os.chdir({str(folder)!r})\n" + RUN
    (folder / "rows.json").write_text(succeed("tests.snippet", code).out[0].splitlines()[-1])
    return folder


def test_the_model_begins_as_it_was_saved_and_the_tables_anew(folder: Path) -> None:
    before, start, after = (tensors(folder / run) for run in ("both", "start", "patch"))
    carried = {name: value for name, value in before.items() if name.startswith("dense.parameter.")}
    assert any("item_encoder" in name for name in carried)
    for name, value in carried.items():
        np.testing.assert_array_equal(start[name], value, err_msg=name)
    assert [len(state[ITEM]) for state in (before, start, after)] == [40, 50, 50]
    assert abs(start[ITEM].std() / 0.02 - 1) < 0.1  # tables.init_std: nothing of the trained table
    assert np.abs(before[ITEM]).max() > 0.2
    # A method that otherwise freezes items trains the new ones, all that the users to tune on clicked.
    clicked = pd.read_parquet(folder / "target" / "items.parquet").train_count.to_numpy() > 0
    assert clicked.sum() > 40
    assert (np.abs(after[ITEM] - start[ITEM]).max(axis=1) > 1e-3)[clicked].all()
    # It saves them and its patches, and stands on the pre-trained run for the rest.
    assert not carried.keys() & reader.names(checkpoints(folder / "patch")[-1])


@pytest.mark.exhaustive
def test_two_ranks_that_resume_end_where_one_that_never_stopped_does(folder: Path) -> None:
    flags = ("--config", folder / "patch" / "config.yaml", "--data", folder / "target", "--init", folder / "both")
    words = (*flags, "--method", "patch", "--split", "pretrain", "--run-dir", folder / "half")
    refused = run_command("tune", *words)
    assert refused.codes == [2]
    assert "with --new-catalogue it is tuned on that, with new tables" in refused.lines[-1]
    succeed("tune", *words, "--new-catalogue", "--train.max_steps", 2)
    succeed("tune", *words, "--new-catalogue", "--resume", world_size=2)
    whole, resumed = tensors(folder / "patch"), tensors(folder / "half")
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(resumed[name], value, rtol=2e-3, atol=2e-5, err_msg=name)
    assert "each of 40 users was trained exactly once" in succeed("verify", "--run-dir", folder / "half").out[0]


def test_items_encoded_by_features_give_the_same_user_vectors_under_other_numbers(folder: Path) -> None:
    vocabularies = [pd.read_parquet(folder / name / "items.parquet").item_id for name in ("source", "renumbered")]
    assert not np.array_equal(*vocabularies)
    found = [pd.read_parquet(folder / f"{run}.vectors").set_index("user_id").vector for run in ("features", "again")]
    assert sorted(found[0].index) == list(range(60))
    assert not np.array_equal(found[0].index, found[1].index)
    vectors, again = np.stack(found[0].to_list()), np.stack(found[1].loc[found[0].index].to_list())
    np.testing.assert_allclose(again, vectors, rtol=1e-5, atol=1e-6)
    assert np.std(vectors, axis=0).min() > 1e-2


def test_it_is_evaluated_on_its_own_catalogue(folder: Path) -> None:
    next_item, few_shot = json.loads((folder / "rows.json").read_text())
    assert next_item["instances"] == 40
    assert few_shot["instances"] > 0
    assert not next_item["passport"]["trained_on_validation"]
    _, info = runs.read(folder / "patch")
    assert (info.items, info.splits) == (50, ["pretrain"])


def test_what_cannot_be_read_of_the_new_items_is_refused_in_one_line(folder: Path) -> None:
    config, info = runs.read(folder / "features")
    target = load_manifest(folder / "target")
    more = dataclasses.replace(target.item_data["text"], columns=7)
    wide = dataclasses.replace(target, item_data=target.item_data | {"text": more})
    with pytest.raises(UserError, match=r"^features reads 'text' of items \(6 numbers\), and wide has 7 numbers$"):
        run_checks.check_new_catalogue(info, config, Path("features"), wide, Path("wide"))
    by_id = Config(model=Model(item_encoders=["id"]))
    run_checks.check_new_catalogue(info, by_id, Path("ids"), wide, Path("wide"))  # which reads nothing of it
