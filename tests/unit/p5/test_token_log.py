"""The sentences of a token folder against sentences written in plain Python; nothing of what is held out is in them."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.raw_ids import item_ids
from ppr_dist.data.stream.users import Users, read_shards
from ppr_dist.errors import UserError
from ppr_dist.p5 import token_log
from ppr_dist.p5.prepare import Arguments
from ppr_dist.p5.templates import FAMILIES, WORDS
from tests.shards import ATTRIBUTES, clicks_of, random_users, write_data

ITEMS, HISTORY = 30, 3
USERS = random_users(25, ITEMS, shortest=1, longest=9)


def written(folder: Path, users: Users, **options: object) -> Path:
    """The token folder of ``users``."""
    if not (folder / "data").is_dir():
        write_data(folder / "data", {"pretrain": users}, items=ITEMS, per_shard=10)
    out = folder / f"tokens-{len(list(folder.iterdir()))}"
    arguments = Arguments(data=folder / "data", out=out, code_values=4, history=HISTORY, **options)  # type: ignore[arg-type]
    token_log.write_tokens(arguments)
    return out


def spelled(out: Path) -> collections.Counter[str]:
    """The sentences of a token folder, in words."""
    description, _ = token_log.read_description(out)
    words = [*WORDS, *(f"{name}={value}" for name, n in ATTRIBUTES.items() for value in range(n))]
    words += [f"user{user}" for user in range(description.users)]
    words += [f"code{level}={code}" for level, size in enumerate(description.sizes) for code in range(size)]
    manifest, tokens = load_manifest(out / "tokens"), item_ids(out / "tokens").to_pylist()
    assert sorted(tokens) == list(range(len(words)))  # all of them, said or not
    sentences = read_shards(out / "tokens", manifest.split("tune-train").shards, manifest)["items"].to_pylist()
    assert manifest.split("pretrain").users == manifest.split("tune-test").users == 0
    return collections.Counter(" ".join(words[tokens[index]] for index in sentence) for sentence in sentences)


def test_sentences_are_those_of_all_training_clicks(tmp_path: Path) -> None:
    out = written(tmp_path, USERS, families=["sequential", "direct"], user_tokens=True)
    found, (_, codes) = spelled(out), token_log.read_description(out)
    name = [" ".join(f"code{level}={code}" for level, code in enumerate(item)) for item in codes.tolist()]
    longest = max(len(sentence.split()) for sentence in found)  # of three clicks, as many as it may name
    for row in range(len(USERS)):
        clicks = clicks_of(USERS, row)[:-2]
        profile = " ".join(f"{name}={value}" for name, value in zip(ATTRIBUTES, USERS.attributes[:, row], strict=True))
        for n, item in enumerate(clicks):
            history = " ".join(name[each] for each in clicks[max(0, n - HISTORY) : n])
            for family in ("sequential", "direct") if n else ("direct",):
                said = {"user": f"user user{row}", "history": history, "profile": profile}
                could_be = [f"{text.format(**said)} {name[item]}" for text in FAMILIES[family]]
                is_there = next(sentence for sentence in could_be if found[sentence])  # clicked twice, either will do
                found[is_there] -= 1
    assert not found.total()
    training = yaml.safe_load((out / "pretrain.yaml").read_text())
    assert training["model"]["max_length"] == longest - 1
    assert training["train"]["last_clicks"] == codes.shape[1] == 3


MORE = [pytest.param(ids, marks=pytest.mark.exhaustive) for ids in ("random", "collaborative")]


@pytest.mark.parametrize("ids", ["sequential", *MORE])
def test_what_is_held_out_changes_nothing(tmp_path: Path, ids: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = np.random.default_rng(1).integers(0, ITEMS, len(USERS.items))
    held_out = np.concatenate([np.arange(n) >= n - 2 for n in USERS.lengths])
    changed = dataclasses.replace(USERS, items=np.where(held_out, other, USERS.items))
    seen = []
    for name, users in (("as it is", USERS), ("changed", changed)):
        out = written(tmp_path / name, users, ids=ids)
        seen.append((token_log.read_description(out)[1].tolist(), load_manifest(out / "tokens").fingerprint))
    assert seen[0] == seen[1]
    if ids == "sequential":  # along whole sequences, held-out clicks would number items
        monkeypatch.setattr(token_log, "HELD_OUT", 0)
        whole = [written(tmp_path / name, USERS, ids=ids) for name in ("as it is", "changed")]
        assert len({str(token_log.read_description(out)[1].tolist()) for out in whole}) == 2


def test_without_anything_known_of_users_there_is_no_direct_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    manifest = write_data(folder, {"pretrain": USERS}, items=ITEMS, per_shard=10)
    dataclasses.replace(manifest, attributes=()).sealed().save(folder)
    with pytest.raises(UserError, match="nothing is known of users"):
        token_log.write_tokens(Arguments(data=folder, out=tmp_path / "out", families=["direct"]))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
