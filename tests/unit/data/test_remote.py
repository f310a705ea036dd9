"""Prepared data under an address, read from servers whose connections break."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from ppr_dist.data import remote
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.errors import UserError
from tests.object_store import serving
from tests.shards import random_users, write_data

KINDS = ("http", "s3")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    write_data(folder, {"pretrain": random_users(40, 97)}, items=97, per_shard=16)
    (folder / "users.parquet").write_bytes(b"ids")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    remote.here.cache_clear()
    return folder


def read(folder: Path) -> list[list[int]]:
    stream = UserStream(folder, load_manifest(folder), "pretrain", batch=8, rank=0, world_size=1)
    return [users.items.tolist() for _, _, users in stream.batches(0, range(stream.steps))]


@pytest.mark.parametrize("kind", KINDS)
def test_connections_that_break_in_the_middle_change_nothing(kind: str, data: Path) -> None:
    with serving(data, breaks=2) as store:
        address = getattr(store, kind)
        folder = remote.here(address)
        assert read(folder) == read(data)
        assert read(pickle.loads(pickle.dumps(folder))) == read(data)  # as a loader's process has it
        assert [remote.present(folder / "users.parquet").read_bytes() for _ in range(2)] == [b"ids"] * 2
        # What is small stays; no shard does.
        assert store.whole["users.parquet"] == store.whole["manifest.json"] == 1
        assert not list(folder.rglob("*.tar"))
        assert remote.address_of(folder) == address


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_is_one_line_at_once(kind: str, data: Path) -> None:
    with serving(data) as store:
        wrong = getattr(store, kind).replace("/data", "/other")
        with pytest.raises(UserError, match=r"^\w+://.*/other/manifest.json.*: nothing is there \(.*\)$"):
            remote.here(wrong)
        folder = remote.here(getattr(store, kind))
        (data / "pretrain" / "00001.tar").unlink()
        with pytest.raises(UserError, match=r"/data/pretrain/00001.tar.*: nothing is there"):
            read(folder)


def test_a_server_that_never_sends_it_whole_is_given_up(data: Path) -> None:
    with serving(data, breaks=10**9) as store:
        with pytest.raises(UserError, match=r"manifest.json: cannot be read, 5 attempts \(IncompleteRead.*\)$"):
            remote.here(store.http)
        assert store.asked["manifest.json"] == remote.ATTEMPTS
    with pytest.raises(UserError, match=r"manifest.json: cannot be read, 5 attempts \(.*refused.*\)$"):
        remote.here(store.http)


def test_other_bytes_than_the_manifest_states(data: Path) -> None:
    with serving(data) as store:
        folder = remote.here(store.http)
        shard = data / "pretrain" / "00000.tar"
        changed = bytearray(shard.read_bytes())
        changed[700] ^= 1
        shard.write_bytes(changed)
        with pytest.raises(UserError, match=r"00000.tar: cannot be read, 5 attempts \(its checksum is not"):
            read(folder)


def test_data_prepared_again_has_a_cache_of_its_own(data: Path) -> None:
    with serving(data) as store:
        first = remote.here(store.http)
        assert remote.present(first / "users.parquet").read_bytes() == b"ids"
        manifest = load_manifest(data)
        dataclasses.replace(manifest, settings={"seed": 9}).sealed().save(data)
        (data / "users.parquet").write_bytes(b"other")
        remote.here.cache_clear()  # another command
        second = remote.here(store.http)
        assert second != first
        assert remote.present(second / "users.parquet").read_bytes() == b"other"


def test_other_schemes_are_refused() -> None:
    with pytest.raises(UserError, match=r"^ftp://a/b: data is read from a folder, or from s3://, gs://"):
        remote.here("ftp://a/b")
