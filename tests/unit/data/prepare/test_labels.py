"""Labels of users: which there are, who has them, in which order; and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.stream.users import prepared_users, read_shards
from ppr_dist.errors import UserError
from tests.click_logs import make_log, save, seeded
from tests.shards import labels_of

CONFIG = PrepareConfig(simulate_cold=0.3, users_per_member=7, members_per_shard=2)


def several(users: np.ndarray) -> pd.DataFrame:
    """Up to 5 labels of most users and of two strangers, some rows twice and some without a label."""
    rng = np.random.default_rng(4)
    listed = rng.choice(np.append(users[5:], [10**6, 10**6 + 1]), 300)
    labels = pd.array(rng.integers(0, 40, 300) * 11 + 2**60, dtype="Int64")
    frame = pd.DataFrame({"user_id": listed, "label": labels})
    frame.loc[:9, "label"] = pd.NA
    return pd.concat([frame, frame[20:40], pd.DataFrame({"user_id": [users[5], 10**6], "label": [3, 5]})])


def one(users: np.ndarray) -> pd.DataFrame:
    values = np.random.default_rng(5).choice(["no", "yes", "Århus"], len(users))
    return pd.DataFrame({"user_id": users, "label": values})


def prepared(folder: Path, kind: str = "parquet", **files: pd.DataFrame) -> Manifest:
    log, profile = make_log()
    paths = {}
    for name, frame in files.items():
        paths[name] = str(folder / f"{name}.{kind}")
        frame.to_parquet(paths[name]) if kind == "parquet" else frame.to_csv(paths[name], index=False)
    interactions, users = save(folder, log, profile, kind)
    return prepare(interactions, users, folder / "data", CONFIG, labels=paths, overwrite=True)


def everyones(folder: Path, manifest: Manifest, space: str) -> dict[Any, list[int]]:
    raw, found = pd.read_parquet(folder / "users.parquet").user_id, {}
    for split in manifest.splits.values():
        if split.users:
            users = prepared_users(read_shards(folder, split.shards, manifest), manifest)
            found |= {raw[index]: labels_of(users, space, row) for row, index in enumerate(users.index.tolist())}
    return found


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_each_user_has_their_labels_in_the_order_of_a_hash(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    users = np.unique(make_log()[0].user_id)
    six = pd.DataFrame({"user_id": np.repeat(users, 6), "label": np.tile(np.arange(6), len(users))})
    frames = {"answer": one(users[::2]), "click": several(users), "six": six}
    manifest = prepared(tmp_path, kind, **frames)
    assert manifest == load_manifest(tmp_path / "data")
    assert [(each.name, each.id_type) for each in manifest.labels] == [
        ("answer", "string"),
        ("click", "int64"),
        ("six", "int64"),
    ]
    table = pd.read_parquet(tmp_path / "data" / "labels.parquet")
    for space in manifest.labels:
        known = frames[space.name].dropna()
        values = sorted(known.label.unique())
        want: dict[Any, list[int]] = {user: [] for user in users}
        for user, labels in known[known.user_id.isin(users)].groupby("user_id").label:
            order = sorted(labels.unique(), key=lambda label: seeded("label", f"{user}:{label}"))
            want[user] = [values.index(label) for label in order]
        assert everyones(tmp_path / "data", manifest, space.name) == want
        rows = table[table.space == space.name]
        assert rows.label.tolist() == [str(value) for value in values]
        assert rows.label_index.tolist() == list(range(len(values)))
        counts = [len(labels) for labels in want.values() if labels]
        assert (space.size, space.users, space.most) == (len(values), len(counts), max(counts))
        content = b"".join(v.encode() if isinstance(v, str) else int(v).to_bytes(8, "little") for v in values)
        sizes = np.array([len(v.encode()) if isinstance(v, str) else 8 for v in values], "<i8").tobytes()
        digests = (hashlib.sha256(part).digest() for part in (sizes, content))
        assert space.values == hashlib.sha256(b"".join(digests)).hexdigest()
    warned = capsys.readouterr().err
    assert warned.count("not among those of the data") == 1
    assert f"click.{kind}: 2 of " in warned

    # The order says nothing: each label stands in each place of a sixth of the users, within 4 standard deviations.
    places = np.array(list(everyones(tmp_path / "data", manifest, "six").values())).T
    found = np.array([np.bincount(place, minlength=6) for place in places])
    assert np.abs(found - len(users) / 6).max() < 4 * np.sqrt(len(users) * 5 / 36)

    # A label that the space does not have is found as the shard is read.
    of_click = dataclasses.replace(manifest.labels[1], size=manifest.labels[1].size - 1)
    smaller = dataclasses.replace(manifest, labels=(of_click,))
    with pytest.raises(UserError, match=f"column 'labels.click' holds {of_click.size}; the manifest has 0 to"):
        read_shards(tmp_path / "data", manifest.split("pretrain").shards, smaller)


def test_data_without_labels_is_as_it_was_before_there_were_any(tmp_path: Path) -> None:
    prepared(tmp_path)
    body = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert "labels" not in body
    assert not (tmp_path / "data" / "labels.parquet").exists()
    said = body.pop("fingerprint")
    del body["format"], body["item_data"]  # no part of it before there was any, either
    body["fingerprint"] = ""
    assert said == hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def test_what_is_no_label_file_is_refused_in_one_line(tmp_path: Path) -> None:
    users = np.unique(make_log()[0].user_id)
    good = several(users)
    for said, frame in {
        "no column 'label'; it has user_id, answer": good.rename(columns={"label": "answer"}),
        "no column 'user_id'": good.rename(columns={"label": "user"}).rename(columns={"user_id": "label"}),
        "no label in it": good.assign(label=None),
        "column 'label' is DOUBLE": good.dropna().assign(label=lambda frame: frame.label.astype(float)),
        "column 'user_id' is null in 1 of": pd.concat([good, pd.DataFrame({"user_id": [None], "label": [1]})]).astype(
            "Int64"
        ),
        "none of its 1 users is among those of the data": pd.DataFrame({"user_id": [77777], "label": [1]}),
        "user ids are string, but int64 in": good.assign(user_id=good.user_id.astype(str) + "x"),
    }.items():
        with pytest.raises(UserError, match=said) as refused:
            prepared(tmp_path, click=frame)
        assert "\n" not in str(refused.value)
        assert "click.parquet" in str(refused.value)
        assert not (tmp_path / "data").exists()
    log, profile = make_log()
    for name, path in (("click", "nowhere.parquet"), ("a.b", "users.parquet")):
        with pytest.raises(UserError, match=r"nowhere.parquet: no such file|--labels.a.b: a name of letters"):
            prepare(*save(tmp_path, log, profile), tmp_path / "data", CONFIG, labels={name: str(tmp_path / path)})
