"""One catalogue's model on another without shared items or users: from scratch, pre-trained, adapters alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.jobs import merged
from benchmarks.ml_1m import ROOT
from benchmarks.transfer import compare
from benchmarks.transfer.setting import NEXT, Result, Setting
from benchmarks.transfer.training import Training

DIRECTIONS = (("toys", "beauty"), ("beauty", "toys"))
SIZES = (500, 2_000, None)
"""Users of the target to train on; None: all."""
FEATURES = {"model": {"item_encoders": ["features"]}}
TUNED = {
    "pre-trained, all trained": {"method": "fine-tune", "train": {"pretrained_lr": 3e-4}},
    "pre-trained, adapters alone": {"method": "adapter"},
}


def catalogues(setting: Setting) -> Result:
    """Toys to Beauty and back: from scratch against pre-trained, by the number of the target's users."""
    lines, kept = [], {}
    sizes = SIZES[:1] if setting.quick else SIZES
    for source, target in DIRECTIONS[:1] if setting.quick else DIRECTIONS:
        if setting.logs is None:
            return ["Needs --log with toys and beauty."], {}
        start = setting.pretraining(f"{source}/source", _data(setting, source, None), 0, FEATURES, keep=True)
        setting.run([start], f"{source}: source")
        everyone = _data(setting, target, None)
        asks = {"next-item": {**NEXT, "data": everyone}}
        for size in sizes:
            data = _data(setting, target, size)
            # As many steps for few users as can help them; validation ends what no longer does.
            epochs = setting.epochs if size is None else min(60, setting.epochs * 4)
            usual = {"train": {"epochs": epochs}}
            place = f"{target}/{size or 'all'}"
            rows: dict[str, list[Training]] = {}
            for seed in range(setting.seeds):
                for name, options in (("scratch: id", {}), ("scratch: features", FEATURES)):
                    training = setting.pretraining(
                        f"{place}/{name.replace(': ', '-')}", data, seed, options, usual, asks=asks
                    )
                    rows.setdefault(name, []).append(training)
                for name, options in TUNED.items():
                    rows.setdefault(name, []).append(
                        _tuned(setting, place, start, data, seed, options, usual, asks=asks)
                    )
            setting.run([t for of in rows.values() for t in of], f"{source} to {target}, {size or 'all'} users")
            of = compare.collect(rows, "next-item")
            lines += [
                "",
                f"## {source} to {target}, {size or 'all'} users",
                "",
                *compare.table(of, "scratch: features"),
            ]
            kept[f"{source} {target} {size or 'all'}"] = {metric: each.as_json() for metric, each in of.items()}
            for name, trainings in rows.items():
                results = [training.result() for training in trainings]
                kept[f"{source} {target} {size or 'all'}"][f"{name}: best epoch"] = [r["epochs"] for r in results]
    note = (
        "Items are known by features alone (but for scratch: id): hashed categories, benchmarks/transfer/content.py."
        " Tested: the last click of all users of the target, whichever were trained on, in the whole catalogue;"
        " training knows of no user's last two clicks."
    )
    return [note, *lines], kept


def _tuned(
    setting: Setting,
    place: str,
    start: Training,
    data: Path,
    seed: int,
    *options: Mapping[str, Any],
    asks: Mapping[str, Any],
) -> Training:
    usual = {"data": data, "split": "pretrain", "new_catalogue": True, "train": {"seed": seed}}
    return Training(
        folder=setting.work / "runs" / place / str(options[0]["method"]) / f"seed-{seed}",
        command="tune",
        options=merged({"config": ROOT / "configs" / "transfer" / "tune.yaml"}, usual, *options),
        start=start,
        asks=asks,
    )


def _data(setting: Setting, log: str, users: int | None) -> Path:
    """All clicks, or those of the first ``users`` users; the same catalogue, since its items' features are told."""
    known = {"item_features": setting.content(log)["item_features"], "cold_threshold": 3}
    if users is None:
        return setting.prepared(f"{log}-all", log, **known)
    clicks = setting.work / "logs" / f"{log}-{users}.parquet"
    if not clicks.is_file():
        clicks.parent.mkdir(parents=True, exist_ok=True)
        whole = pq.read_table(setting.log(log) / "interactions.parquet")
        chosen = pc.unique(whole["user_id"])[:users]
        pq.write_table(whole.filter(pc.is_in(whole["user_id"], chosen)), clicks)
    return setting.prepared(f"{log}-{users}", log, interactions=clicks, **known)
