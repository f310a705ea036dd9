"""Data without signal scores at chance, in every metric of every task: what a model learns there is a leak."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.synthetic.catalogue import SyntheticConfig, generate
from tests.commands import succeed, succeed_in_turn

ITEMS, WARM_CLICKS, COLD_CLICKS = 240, 16, 7
ASKED = {
    "few-shot": range(1, COLD_CLICKS),
    "zero-shot": range(1),
    "joint": range(COLD_CLICKS),
    "next-item": [WARM_CLICKS - 1],
    "validation": [WARM_CLICKS - 2],
}
"""Clicks before the targets of a task."""
PROTOCOLS = ("full", "sampled-99")
KNOWN = ("few-shot", "next-item", "validation")
"""Tasks with a history: a pre-trained model has nothing else to go by."""
TRAIN = (
    *("--prompt.hidden", 16, "--profiles.attribute_dim", 16),
    *("--train.global_batch_size", 64, "--train.lr", 1e-2, "--tables.lr", 0.2, "--softmax.uniform_negatives", 128),
)


def random_log(warm: int = 500, cold: int = 800) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clicks drawn uniformly, no item twice by a user, 4 at each time; and profiles drawn likewise."""
    rng = np.random.default_rng(0)
    counts = [WARM_CLICKS] * warm + [COLD_CLICKS] * cold
    log = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(len(counts)), counts),
            "item_id": np.concatenate([rng.permutation(ITEMS)[:count] for count in counts]),
            "timestamp": np.concatenate([1_600_000_000 + np.arange(count) // 4 * 60 for count in counts]),
        }
    )
    values = {name: rng.integers(0, n, len(counts)) for name, n in {"city": 6, "gender": 2}.items()}
    return log.sample(frac=1, random_state=0), pd.DataFrame({"user_id": np.arange(len(counts)), **values})


def prepared(folder: Path, log: pd.DataFrame, profiles: pd.DataFrame, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    log.to_parquet(folder / "interactions.parquet")
    profiles.to_parquet(folder / "users.parquet")
    config = PrepareConfig(tune_test_fraction=0.6, cold_threshold=15, **options)  # cold even where delivered twice
    prepare(str(folder / "interactions.parquet"), str(folder / "users.parquet"), folder / "data", config)
    return folder / "data"


def pretrained(data: Path, run: Path, epochs: int = 10) -> Path:
    model = ("--model.dim", 16, "--sasrec.layers", 1, "--model.max_length", 16, "--model.dropout", 0.0)
    succeed("pretrain", "--data", data, "--run-dir", run, *model, *TRAIN, "--train.epochs", epochs)
    return run


def tuned(method: str, data: Path, init: Path, run: Path) -> Path:
    flags = ("--data", data, "--init", init, "--method", method, "--run-dir", run)
    succeed("tune", *flags, *TRAIN, "--train.epochs", 10)
    return run


def evaluated(run: Path, tasks: Iterable[str]) -> list[dict[str, Any]]:
    """What evaluate says of each task under each protocol."""
    succeed_in_turn("evaluate", *(("--run-dir", run, "--task", *tasks, "--protocol", p) for p in PROTOCOLS))
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def off_chance(run: Path, tasks: Iterable[str]) -> dict[str, float]:
    """Metrics more than 4 standard errors from those of random ranks, in standard errors."""
    found = {}
    for row in evaluated(run, tasks):
        task, protocol = row["task"], row["protocol"]
        sizes = [ITEMS - clicks if protocol == "full" else 100 for clicks in ASKED[task]]
        moments = np.mean([chance(size) for size in sizes], axis=0)
        for name, mean, variance in zip(METRICS, *moments, strict=True):
            errors = (row[name] - mean) / math.sqrt(variance / row["instances"])
            if abs(errors) > 4:
                found[f"{task} {protocol} {name}"] = errors
    return found


CUTOFFS = (5, 10, 20, 50)
METRICS = ("auc", *(f"{metric}@{n}" for n in CUTOFFS for metric in ("hit", "ndcg")))


def chance(candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each of ``METRICS`` where every rank is as likely."""
    rank = np.arange(1, candidates + 1)
    values = [(candidates - rank) / (candidates - 1)]
    for n in CUTOFFS:
        values += [(rank <= n) * 1.0, (rank <= n) / np.log2(rank + 1)]
    return np.mean(values, axis=1), np.var(values, axis=1)


def test_random_clicks_are_ranked_at_random(tmp_path: Path) -> None:
    log, profiles = random_log()
    data = prepared(tmp_path, pd.concat([log, log]), profiles, deduplicate="exact")
    run = pretrained(data, tmp_path / "pre-trained")
    assert not off_chance(run, KNOWN)
    for method in ("ppr-light", "fine-tune"):
        assert not off_chance(tuned(method, data, run, tmp_path / method), ASKED)


@pytest.mark.parametrize("fault", ["ties by item id", "delivered twice"])
def test_a_leak_would_show(fault: str, tmp_path: Path) -> None:
    log, profiles = random_log()
    if fault == "ties by item id":
        log = log.sort_values(["timestamp", "item_id"])
        log["position"] = log.groupby("user_id").cumcount()
    else:
        log = pd.concat([log, log])
    tasks = ("few-shot", "next-item")
    off = off_chance(pretrained(prepared(tmp_path, log, profiles), tmp_path / "run"), tasks)
    assert all(off[f"{task} {protocol} auc"] > 8 for task in tasks for protocol in PROTOCOLS), fault


def test_shuffled_profiles_say_no_more_than_a_constant(tmp_path: Path) -> None:
    """And one's own say more, so that a mistake could be seen."""
    size = {"users": 1200, "items": 300, "topics": 8, "cold_fraction": 0.6, "max_clicks": 20}
    generate(SyntheticConfig(**size, profile_weight=1.0), tmp_path / "raw")  # type: ignore[arg-type]
    log, users = (pd.read_parquet(tmp_path / "raw" / f"{name}.parquet") for name in ("interactions", "users"))
    own = users[["city", "gender"]].assign(decade=users["age"] // 10)
    profiles = {
        "own": own,
        "shuffled": own.sample(frac=1, random_state=0).reset_index(drop=True),
        "constant": own.assign(city="any", gender="any", decade=0),
    }
    auc, error = {}, 0.0
    for name, columns in profiles.items():
        data = prepared(tmp_path / name, log, columns.assign(user_id=users["user_id"]))
        run = tuned("ppr-full", data, pretrained(data, tmp_path / name / "pre", epochs=2), tmp_path / name / "run")
        for row in evaluated(run, ["zero-shot"]):
            auc[name, row["protocol"]] = row["auc"]
            error = math.sqrt(1 / 12 / row["instances"])
    for protocol in PROTOCOLS:
        assert auc["shuffled", protocol] < auc["constant", protocol] + 4 * error
        assert auc["own", protocol] > auc["constant", protocol] + 4 * error
