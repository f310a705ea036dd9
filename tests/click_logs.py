"""For the tests of ``prepare``: small click logs with profiles, and its rules by brute force."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.prepare.config import PrepareConfig


def make_log(users: int = 120, items: int = 60, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return interactions (tied timestamps, rows out of order) and profiles (of fewer and other users)."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users) * 7 - 50, rng.integers(1, 30, users))
    item = (items * rng.random(len(user)) ** 2).astype(np.int64) * 3 + 2**40
    log = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": rng.integers(0, 40, len(user))})
    profile = pd.DataFrame({"user_id": np.append(np.unique(user)[:-5], [10**6, 10**6 + 1])})
    profile["age"] = pd.array(rng.integers(18, 60, len(profile)), dtype="Int64")
    profile.loc[3, "age"] = pd.NA
    profile["city"] = rng.choice(["Oslo", "Rome", "Århus", "O'Fallon"], len(profile)).astype(object)
    profile.loc[5, "city"] = None
    profile.loc[profile.user_id >= 10**6, "city"] = "Nowhere"
    return log.sample(frac=1, random_state=seed, ignore_index=True), profile


def save(
    folder: Path, log: pd.DataFrame, profile: pd.DataFrame | None = None, kind: str = "parquet"
) -> tuple[str, str | None]:
    paths = []
    for name, frame in (("interactions", log), ("users", profile)):
        path = folder / f"{name}.{kind}"
        if frame is not None:
            frame.to_parquet(path) if kind == "parquet" else frame.to_csv(path, index=False)
        paths.append(str(path) if frame is not None else None)
    assert paths[0] is not None
    return paths[0], paths[1]


def read_split(out: Path, manifest: Manifest, name: str) -> pd.DataFrame:
    """Return the records of a split, one row per user, checking its shards against the manifest."""
    frames = []
    for shard in manifest.split(name).shards:
        data = (out / shard.path).read_bytes()
        assert len(data) == shard.bytes
        assert hashlib.sha256(data).hexdigest() == shard.sha256
        tables = []
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                with pa.ipc.open_stream(file.read()) as stream:
                    batches = list(stream)
                assert len(batches) == 1
                assert member.name.endswith(".arrow")
                assert [str(t) for t in batches[0].schema.types[:2]] == ["int64", "list<item: int64>"]
                tables.append(pa.Table.from_batches(batches))
        table = pa.concat_tables(tables)
        assert table.num_rows == shard.users
        assert len(table["items"].combine_chunks().values) == shard.events
        frames.append(table.to_pandas())
    frame = pd.concat(frames) if frames else pd.DataFrame({"user": [], "items": []})
    assert len(frame) == manifest.split(name).users
    return frame


def sequences(out: Path) -> dict[Any, list[Any]]:
    """Raw user → raw items, oldest first, of all splits."""
    manifest = load_manifest(out)
    user = pd.read_parquet(out / "users.parquet").user_id.to_numpy()
    item = pd.read_parquet(out / "items.parquet").item_id.to_numpy()
    frame = pd.concat([read_split(out, manifest, split) for split in manifest.splits])
    return {
        user[u]: item[np.asarray(i, np.int64)].tolist()
        for u, i in zip(frame.user.astype(int), frame["items"], strict=True)
    }


def seeded(purpose: str, raw: object, seed: int = 0) -> int:
    return int.from_bytes(hashlib.md5(f"{seed}:{purpose}:{raw}".encode()).digest(), "little")


def brute_force(
    log: pd.DataFrame, config: PrepareConfig, order: str
) -> tuple[dict[str, dict[Any, list[Any]]], list[Any]]:
    """Return split -> {raw user: raw items} (users in shard order) and the vocabulary."""
    log = log[log.groupby("item_id").item_id.transform("size") >= config.min_item_count]
    tie = [seeded("tie", f"{u}:{i}", config.seed) for u, i in zip(log.user_id, log.item_id, strict=True)]
    log = log.assign(tie=tie).sort_values([order, "tie", "item_id"])
    sequences = {user: group.item_id.tolist() for user, group in log.groupby("user_id")}
    threshold = config.cold_threshold

    def smallest(users: list[Any], purpose: str, share: float) -> list[Any]:
        return sorted(users, key=lambda u: (seeded(purpose, u), u))[: int(share * len(users) + 0.5)]

    warm = [user for user, items in sequences.items() if len(items) >= threshold]
    for user in smallest(warm, "simulate", config.simulate_cold):
        sequences[user] = sequences[user][: threshold - 1]
    cold = [user for user, items in sequences.items() if len(items) < threshold]
    ordered = sorted(cold, key=lambda u: (seeded("tune", u), u))
    bounds = [int(config.tune_test_fraction * n * len(cold) + 0.5) for n in range(config.tune_test_fold + 1)]
    testing = set(ordered[bounds[-2] : bounds[-1]])
    validating = smallest([u for u in cold if u not in testing], "validate", config.tune_validation_fraction)
    split_of = dict.fromkeys(cold, "tune-train") | dict.fromkeys(testing, "tune-test")
    split_of |= dict.fromkeys(validating, "tune-validation")
    items = {item for sequence in sequences.values() for item in sequence}
    tuning = sorted((u for u in cold if split_of[u] == "tune-train"), key=lambda u: (seeded("fewer", u), u))
    for user in tuning[config.tune_train_users or len(tuning) :]:
        del sequences[user]
    for user in set(cold) & set(sequences):
        sequences[user] = sequences[user][: config.cold_clicks]
    names = ("pretrain", "tune-train", "tune-test", "tune-validation")
    splits: dict[str, dict[Any, list[Any]]] = {name: {} for name in names}
    for user in sorted(sequences, key=lambda u: (seeded("user", u), u)):
        splits[split_of.get(user, "pretrain")][user] = sequences[user]
    return splits, sorted(items, key=lambda i: (seeded("item", i), i))


def check(
    out: Path,
    log: pd.DataFrame,
    profile: pd.DataFrame | None,
    config: PrepareConfig,
    order: str = "timestamp",
) -> None:
    """Compare everything in ``out`` with the brute-force reading."""
    manifest = load_manifest(out)
    splits, vocabulary = brute_force(log, config, order)
    items = pd.read_parquet(out / "items.parquet")
    assert items.item_id.tolist() == vocabulary
    assert items.item_index.tolist() == list(range(manifest.items))
    users = pd.read_parquet(out / "users.parquet")
    assert users.user_index.tolist() == list(range(len(users)))
    assert users.user_id.tolist() == [user for split in splits.values() for user in split]
    values = pd.read_parquet(out / "attributes.parquet")
    known = {(a, i): v for a, i, v in zip(values.attribute, values.value_index, values.value, strict=True)}
    train, tune = dict.fromkeys(vocabulary, 0), dict.fromkeys(vocabulary, 0)
    counted = splits["tune-train"] or {user: items for split in splits.values() for user, items in split.items()}
    for name, expected in splits.items():
        frame = read_split(out, manifest, name)
        raw = users.user_id.to_numpy()[frame.user.to_numpy(dtype=np.int64)]
        assert raw.tolist() == list(expected)
        assert (users.split.to_numpy()[frame.user.to_numpy(dtype=np.int64)] == name).all()
        for index, sequence in zip(frame["items"], expected.values(), strict=True):
            assert [vocabulary[i] for i in index] == sequence
            for item in sequence[:-2] if name == "pretrain" else []:
                train[item] += 1
            for item in sequence if name == "tune-train" else []:
                tune[item] += 1
        for attribute in manifest.attributes if profile is not None and len(frame) else ():
            if attribute.buckets is None:
                assert profile is not None
                truth = profile.set_index("user_id")[attribute.name].to_dict()
                often = pd.Series([truth.get(user) for user in counted]).value_counts()
                truth = {u: v for u, v in truth.items() if often.get(v, 0) >= config.min_attribute_count}
                for user, value in zip(raw, frame[attribute.name], strict=True):
                    want = truth.get(user)
                    assert known.get((attribute.name, value)) == (None if pd.isna(want) else str(want))
    assert items.train_count.tolist() == list(train.values())
    assert items.tune_count.tolist() == list(tune.values())
