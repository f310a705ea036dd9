"""What ppr_dist computes, once more: users scored one by one, in float64, from raw files and a checkpoint's weights.

Written to be read as the definition of data, model and ranking, with none of the package's code: loops where it has
batches, shards and ranks. ``tests/integration/test_oracle.py`` holds the real commands to it.

Shapes: N items, D width, S tokens of one user's sequence (prompt, then history), H heads, m attributes of width d each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
import torch.distributed.checkpoint as dcp
import yaml

Array = npt.NDArray[np.float64]
Splits = dict[str, dict[Any, list[Any]]]
"""Split → raw user id → raw item ids, oldest first; users in the order of their numbers."""


# ---------------------------------------------------------------- data: who is in which split, and in what order


def md5(seed: int, purpose: str, raw: object) -> int:
    """The hash by which everything is chosen and ordered: MD5 of ``seed:purpose:id``, its first byte the lowest."""
    return int.from_bytes(hashlib.md5(f"{seed}:{purpose}:{raw}".encode()).digest(), "little")


def read_splits(interactions: Path, seed: int = 0, threshold: int = 10, test_fraction: float = 0.2) -> Splits:
    """Users with fewer than ``threshold`` clicks are cold; the share of them with the smallest hashes tests."""
    clicks: dict[Any, list[Any]] = {}
    rows = pq.read_table(interactions).to_pylist()
    # Clicks of one user at one time stand in an order that says nothing.
    for row in sorted(rows, key=lambda r: (r["timestamp"], md5(seed, "tie", f"{r['user_id']}:{r['item_id']}"))):
        clicks.setdefault(row["user_id"], []).append(row["item_id"])
    cold = sorted((user for user in clicks if len(clicks[user]) < threshold), key=lambda u: md5(seed, "tune", u))
    testing = set(cold[: int(test_fraction * len(cold) + 0.5)])
    splits: Splits = {"pretrain": {}, "tune-train": {}, "tune-test": {}}
    for user in sorted(clicks, key=lambda u: md5(seed, "user", u)):
        name = "pretrain" if len(clicks[user]) >= threshold else "tune-test" if user in testing else "tune-train"
        splits[name][user] = clicks[user]
    return splits


def user_numbers(splits: Splits) -> dict[Any, int]:
    return {user: number for number, user in enumerate(user for users in splits.values() for user in users)}


def item_numbers(splits: Splits, seed: int = 0) -> dict[Any, int]:
    """Raw item id → its row in the item table."""
    items = {item for users in splits.values() for history in users.values() for item in history}
    return {item: number for number, item in enumerate(sorted(items, key=lambda i: md5(seed, "item", i)))}


def read_profiles(users: Path, data: Path) -> dict[Any, list[int]]:
    """Raw user id → value of each attribute: 0 unknown, else as numbered in attributes.parquet, or its bucket's."""
    values_of = pq.read_table(data / "attributes.parquet").to_pylist()
    known = {(row["attribute"], row["value"]): row["value_index"] for row in values_of}
    profiles: dict[Any, list[int]] = {}
    for row in pq.read_table(users).to_pylist():
        profiles[row["user_id"]] = values = []
        for attribute in json.loads((data / "manifest.json").read_text())["attributes"]:
            value, edges = row[attribute["name"]], attribute["buckets"]
            if value is None:
                values.append(0)
            elif edges is not None:
                values.append(1 + sum(value >= edge for edge in edges))
            else:
                values.append(known.get((attribute["name"], str(value)), 0))
    return profiles


# ---------------------------------------------------------------- model: from a history and a profile to a vector


@dataclasses.dataclass(frozen=True)
class Model:
    """A run, read from its files alone."""

    settings: dict[str, Any]
    """The sections ``model`` and ``sasrec`` of config.yaml, which share no key."""
    attributes: list[str]
    weights: dict[str, Array]

    @property
    def items(self) -> Array:
        """Item vectors [N, D]."""
        return self.weights["tables.items.embeddings.item.weight"]

    def user_vector(self, history: list[int], profile: list[int]) -> Array:
        """u_a + u_s (PPR §3.4) [D]: the profile's encoding, and the backbone's last state over [prompt | history].

        Args:
            history: item numbers, oldest first; profile: value of each attribute.
        """
        history = history[-self.settings["max_length"] :]
        sequence = self.prompt(profile) + [self.token(item, n, len(history)) for n, item in enumerate(history)]
        u_s = self.backbone(np.array(sequence))[-1] if sequence else np.zeros(self.settings["dim"])
        return u_s + self.profile_mlp("profile_encoder", profile) if self.has("profile_encoder") else u_s

    def prompt(self, profile: list[int]) -> list[Array]:
        """The profile's prompt rows, each [D]; none where the run has no prompt."""
        if not self.has("prompt"):
            return []
        return list(self.profile_mlp("prompt", profile).reshape(-1, self.settings["dim"]))

    def token(self, item: int, nth: int, length: int) -> Array:
        """The ``nth`` of ``length`` interactions, as it enters the backbone [D]."""
        position = {"first": nth, "last": length - 1 - nth}[self.settings["positions"]]
        return self.items[item] * math.sqrt(self.settings["dim"]) + self.dense("backbone.positions")[position]

    def backbone(self, x: Array) -> Array:
        """Pre-norm transformer, causal (SASRec §III-B): [S, D] → [S, D]."""
        for number in range(self.settings["layers"]):
            layer = f"backbone.layers.{number}"
            x = x + self.attention(layer, self.norm(f"{layer}.attention_norm", x))
            hidden = gelu(self.linear(f"{layer}.up", self.norm(f"{layer}.feed_forward_norm", x)))
            x = x + self.linear(f"{layer}.down", hidden)
        return self.norm("backbone.norm", x)

    def attention(self, layer: str, x: Array) -> Array:
        """Each token mixes what stands before it and itself: [S, D] → [S, D]."""
        query, key, value = np.split(self.linear(f"{layer}.qkv", x), 3, axis=1)
        width = self.settings["dim"] // self.settings["heads"]
        mixed = np.zeros_like(x)
        for head in range(self.settings["heads"]):
            own = slice(head * width, (head + 1) * width)
            for s in range(len(x)):
                weight = np.exp(key[: s + 1, own] @ query[s, own] / math.sqrt(width))
                mixed[s, own] = weight / weight.sum() @ value[: s + 1, own]
        return self.linear(f"{layer}.out", mixed)

    def profile_mlp(self, part: str, profile: list[int]) -> Array:
        """W2·relu(W1·x_u + b1) + b2 of the profile's embeddings for ``part``, side by side: [m·d] → [out]."""
        rows = zip(self.attributes, profile, strict=True)
        x_u = np.concatenate([self.weights[f"tables.profiles.embeddings.{part}:{a}.weight"][v] for a, v in rows])
        return self.linear(f"{part}.second", np.maximum(self.linear(f"{part}.first", x_u), 0))

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.dense(f"{name}.weight").T + self.dense(f"{name}.bias")

    def norm(self, name: str, x: Array) -> Array:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
        return x * self.dense(f"{name}.weight") + self.dense(f"{name}.bias")

    def dense(self, name: str) -> Array:
        return self.weights[f"dense.parameter.{name}"]

    def has(self, part: str) -> bool:
        return f"dense.parameter.{part}.first.weight" in self.weights


def gelu(x: Array) -> Array:
    return x / 2 * (1 + torch.erf(torch.from_numpy(x / math.sqrt(2))).numpy())


def read_model(run: Path) -> Model:
    """The run's latest checkpoint."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    settings = config["model"] | config["sasrec"]
    attributes = list(json.loads((run / "run.json").read_text())["attributes"])
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors(run).items()}
    return Model(settings, attributes, weights)


def tensors(run: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Every tensor of a run's checkpoint (its latest one) by its name, read with nothing but torch.

    Where it holds only what was tuned, what is frozen is that of the checkpoint it stands on.
    """
    name = f"step-{'[0-9]' * 8}" if step is None else f"step-{step:08d}"
    reader = dcp.FileSystemReader(sorted((run / "checkpoints").glob(name))[-1])
    entries = reader.read_metadata().state_dict_metadata
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, dcp.metadata.TensorStorageMetadata)
    }
    dcp.load(state, storage_reader=reader, no_dist=True)
    own, under = {name: tensor.numpy() for name, tensor in state.items()}, {}
    if base := json.loads((run / "run.json").read_text()).get("base"):
        under = tensors(Path(base["run"]), base["step"])
    return {name: values for name, values in under.items() if name.startswith(("dense.parameter.", "tables."))} | own


# ---------------------------------------------------------------- evaluation: what is asked, and among what


def instances(splits: Splits, task: str) -> list[tuple[Any, int]]:
    """(user, clicks before the target): the first click of cold test users from the profile alone (zero-shot), each
    later one (few-shot), both (joint); of warm users the last (next-item) or the one before (validation)."""
    if task in ("next-item", "validation"):
        back = {"next-item": 1, "validation": 2}[task]
        return [(user, len(items) - back) for user, items in splits["pretrain"].items() if len(items) > back]
    first = {"zero-shot": 0, "few-shot": 1, "joint": 0}[task]
    found = [(user, n) for user, items in splits["tune-test"].items() for n in range(first, len(items))]
    return [(user, n) for user, n in found if n == 0] if task == "zero-shot" else found


def unseen(history: list[int], target: int, items: int) -> list[int]:
    """Protocol full: every item but those clicked before, and the target."""
    return [item for item in range(items) if item not in (*history, target)]


def negatives(user: int, context: int, clicked: set[int], items: int, seed: int = 0) -> list[int]:
    """Protocol sampled-99: distinct items that the user never clicked, each of 99 columns a draw by hash.

    Columns whose item was clicked, or stands in an earlier column too, draw again, all at once, until there are none.
    """
    drawn = [random_bits(seed, 21, user, context, column, 0) % items for column in range(99)]
    for attempt in itertools.count(1):
        again = [c for c, item in enumerate(drawn) if item in clicked or item in drawn[:c]]
        if not again:
            break
        for column in again:
            drawn[column] = random_bits(seed, 21, user, context, column, attempt) % items
    return drawn


@dataclasses.dataclass(frozen=True)
class Ranked:
    item: Any
    """The target's raw id."""
    rank: int
    """1 + how many of the other candidates score at least as much."""
    candidates: int
    margin: float
    """The least difference in score that decided, relative to the terms of the target's: below some 10^-5 float32 may
    decide otherwise."""


def evaluate(
    run: Path, data: Path, interactions: Path, users: Path, task: str, protocol: str
) -> dict[tuple[Any, int], Ranked]:
    """Rank each instance's target: (raw user, clicks before the target) → how it came out."""
    model, splits, profiles = read_model(run), read_splits(interactions), read_profiles(users, data)
    item_number, user_number = item_numbers(splits), user_numbers(splits)
    found = {}
    for user, context in instances(splits, task):
        raw = next(part[user] for part in splits.values() if user in part)
        clicks = [item_number[item] for item in raw]
        history, target = clicks[:context], clicks[context]
        if protocol == "full":
            others = unseen(history, target, len(item_number))
        else:
            others = negatives(user_number[user], context, set(clicks), len(item_number))
        vector = model.user_vector(history, profiles[user])
        ahead = model.items[others] @ vector - model.items[target] @ vector
        close = np.abs(ahead[ahead != 0]).min(initial=np.inf) / max(np.abs(model.items[target] * vector).sum(), 1e-300)
        found[user, context] = Ranked(raw[context], 1 + int((ahead >= 0).sum()), len(others) + 1, float(close))
    return found


def random_bits(*words: int) -> int:
    """SplitMix64's finaliser, once per word (Steele, Lea & Flood 2014, fig. 17)."""
    whole, golden, state = 2**64 - 1, 0x9E3779B97F4A7C15, 0
    for n, word in enumerate(words):
        state = (state ^ (word * golden + golden) & whole) if n else (word + golden) & whole
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & whole
        state = (state ^ state >> 27) * 0x94D049BB133111EB & whole
        state = state ^ state >> 31
    return state
