"""One catalogue's model on another without shared items or users: from scratch, pre-trained, adapters alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.jobs import merged
from benchmarks.transfer import compare
from benchmarks.transfer.setting import NEXT, TUNE, Result, Setting, some_users
from benchmarks.transfer.training import Training

DIRECTIONS = (("toys", "beauty"), ("beauty", "toys"))
SIZES = (500, 2_000)
"""Users of the target to train on, beside all."""
FEATURES: Mapping[str, Any] = {"model": {"item_encoders": ["features"]}}
SCRATCH: dict[str, Mapping[str, Any]] = {"scratch: id": {}, "scratch: features": FEATURES}
TUNED: dict[str, Mapping[str, Any]] = {
    "pre-trained, all trained": {"method": "fine-tune", "train": {"pretrained_lr": 3e-4}},
    "pre-trained, adapters alone": {"method": "adapter"},
}


def catalogues(setting: Setting) -> Result:
    """Toys to Beauty and back: from scratch against pre-trained, by the number of the target's users."""
    if setting.logs is None:
        return ["Needs --log with toys and beauty."], {}
    lines: list[str] = []
    kept: dict[str, Any] = {}
    most = 1_000 if setting.quick else setting.users
    sizes = [size for size in SIZES if most is None or size < most] + [most]
    for source, target in DIRECTIONS[:1] if setting.quick else DIRECTIONS:
        start = setting.pretraining(f"{source}/source", _data(setting, source, most), 0, FEATURES, keep=True)
        setting.run([start], f"{source}: source")
        asks = {"next-item": {**NEXT, "data": _data(setting, target, most)}}
        for size in sizes:
            # As many steps for few users as can help them; validation ends what no longer does.
            epochs = setting.epochs if size == most else 4 * setting.epochs
            rows = _rows(setting, start, target, size, {"train": {"epochs": epochs}}, asks)
            name = f"{source} to {target}, {f'{size:,}' if size else 'all'} users"
            setting.run(compare.by_seed(rows), name)
            of = compare.collect(rows, "next-item")
            lines += ["", f"## {name}", "", *compare.table(of, "scratch: features")]
            kept[name] = {metric: each.as_json() for metric, each in of.items()}
            kept[name]["best epoch"] = {
                row: [t.result()["epochs"] for t in trainings] for row, trainings in rows.items()
            }
    tested = f"{most:,} users" if most else "all users"
    note = (
        "Items are known by features alone (but for scratch: id): hashed categories, benchmarks/transfer/content.py."
        f" Tested: the last click of {tested} of the target, whichever were trained on, in the whole catalogue;"
        " training knows of no user's last two clicks."
    )
    return [note, *lines], kept


def _rows(
    setting: Setting,
    start: Training,
    target: str,
    size: int | None,
    usual: Mapping[str, Any],
    asks: Mapping[str, Any],
) -> dict[str, list[Training]]:
    data, place = _data(setting, target, size), f"{target}/{size or 'all'}"
    rows: dict[str, list[Training]] = {}
    for seed in range(setting.seeds):
        for name, options in SCRATCH.items():
            folder = f"{place}/{name.replace(': ', '-')}"
            rows.setdefault(name, []).append(setting.pretraining(folder, data, seed, options, usual, asks=asks))
        for name, options in TUNED.items():
            new = {"config": TUNE, "data": data, "split": "pretrain", "new_catalogue": True, "train": {"seed": seed}}
            training = Training(
                folder=setting.work / "runs" / place / str(options["method"]) / f"seed-{seed}",
                command="tune",
                options=merged(new, usual, options),
                start=start,
                asks=asks,
            )
            rows.setdefault(name, []).append(training)
    return rows


def _data(setting: Setting, log: str, users: int | None) -> Path:
    """Prepared clicks of so many users (None: all); the same catalogue, since its items' features are told."""
    folder = setting.log(log)
    if users:
        folder = some_users(folder, setting.work / "logs" / f"{log}-{users}", users)
    known = {"item_features": setting.content(log)["item_features"], "cold_threshold": 3}
    return setting.prepared(f"{log}-{users or 'all'}", log, interactions=folder / "interactions.parquet", **known)
