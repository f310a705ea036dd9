"""A manifest as it was written: read whole, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppr_dist.data.manifest import FORMAT, load_manifest
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.errors import UserError
from tests import shards
from tests.shards import random_users, write_data

# Written by the version before clicks had times, when an attribute could have that name.
BEFORE_TIMES = """
{"attributes": [{"buckets": [0.5], "cardinality": 3, "kind": "number", "name": "times", "values": "c4"}],
 "clicks": {"read": 2}, "cold_threshold": 10,
 "fingerprint": "e4f2961988b830a8ea72f2378d1ec20b7dd815d0d9434b0b18b1f231f4922903",
 "format": 2, "item_id_type": "int64", "items": 3, "settings": {"seed": 0, "time_column": ""},
 "splits": {"pretrain": {"events": 2, "users": 1,
   "shards": [{"bytes": 10240, "events": 2, "path": "pretrain/00000.tar", "sha256": "a1", "users": 1}]}},
 "tables": {"items.parquet": "b2"}, "user_id_type": "string"}
"""


def rewrite(folder: Path, **changes: Any) -> None:
    """Change keys of the manifest in ``folder``; None takes one away."""
    body = json.loads((folder / "manifest.json").read_text()) | changes
    body = {key: value for key, value in body.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(body))


def test_a_manifest_of_before_is_one_without_times_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(BEFORE_TIMES)
    manifest = load_manifest(tmp_path)
    assert not manifest.times
    assert manifest.fingerprint == json.loads(BEFORE_TIMES)["fingerprint"]
    assert manifest.attributes[0].buckets == (0.5,)
    manifest.save(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == FORMAT == 3
    assert load_manifest(tmp_path) == manifest


def test_data_of_before_is_read_also_with_an_attribute_called_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ATTRIBUTES", {"times": 5, "city": 11})
    users = random_users(20, 9)
    made = write_data(tmp_path, {"pretrain": users}, items=9, per_shard=5)
    rewrite(tmp_path, format=2, times=None)
    manifest = load_manifest(tmp_path)
    assert manifest == made
    stream = UserStream(tmp_path, manifest, "pretrain", batch=20, rank=0, world_size=1, shuffle=False)
    ((_, _, found),) = stream.batches(0, range(1))
    assert found.times is None
    np.testing.assert_array_equal(found.attributes, users.attributes)
    np.testing.assert_array_equal(found.items, users.items)


@pytest.mark.parametrize(
    ("times", "changes", "said"),
    [
        (False, {"format": 1}, "written by another version of ppr_dist; run prepare again"),
        (False, {"format": 4}, "written by another version of ppr_dist; run prepare again"),
        (False, {"times": None}, "not a manifest of ppr_dist .*'times'"),
        (False, {"times": True}, "fingerprint does not match its content; run prepare again"),
        (True, {"times": False}, "fingerprint does not match its content; run prepare again"),
        (True, {"format": 2}, "fingerprint does not match its content; run prepare again"),
    ],
)
def test_other_versions_and_edits_are_refused(tmp_path: Path, times: bool, changes: dict[str, Any], said: str) -> None:
    write_data(tmp_path, {"pretrain": random_users(4, 9, times=times)}, items=9, per_shard=4)
    assert load_manifest(tmp_path).times == times
    rewrite(tmp_path, **changes)
    with pytest.raises(UserError, match=rf"manifest\.json: {said}") as refused:
        load_manifest(tmp_path)
    assert "\n" not in str(refused.value)


def test_several_splits_are_read_as_one_and_none_twice(tmp_path: Path) -> None:
    parts = {"pretrain": random_users(30, 9), "tune-train": random_users(20, 9, first_index=30)}
    manifest = write_data(tmp_path, parts, items=9, per_shard=8)
    both = manifest.split("pretrain+tune-train")
    assert (both.users, both.events) == (50, sum(len(users.items) for users in parts.values()))
    assert both.shards == (*manifest.split("pretrain").shards, *manifest.split("tune-train").shards)
    with pytest.raises(UserError, match="'tune-train' is named twice"):
        manifest.split("tune-train+tune-train")
    with pytest.raises(UserError, match="no split 'tune'"):
        manifest.split("pretrain+tune")
