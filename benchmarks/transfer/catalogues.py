"""One catalogue's model on another without shared items or users: from scratch, pre-trained, adapters alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.jobs import merged
from benchmarks.transfer import compare
from benchmarks.transfer.cross_domain import LEAST, items_of
from benchmarks.transfer.setting import NEXT, TUNE, Result, Setting, some_users
from benchmarks.transfer.training import Training

FILMS = ("ml-1m-drama", "ml-1m-action")
"""Two groups of MovieLens-1M's genres (cross_domain.SOURCE and TARGET), each with one half of the users."""
DIRECTIONS = (("toys", "beauty"), ("beauty", "toys"))
SIZES = {"beauty": (500, 2_000), "toys": (500, 2_000), "ml-1m-action": (100, 500)}
"""Users of the target to train on, beside all."""
FEATURES: Mapping[str, Any] = {"model": {"item_encoders": ["features"]}}
SCRATCH: dict[str, Mapping[str, Any]] = {"scratch: id": {}, "scratch: features": FEATURES}
TUNED: dict[str, Mapping[str, Any]] = {
    "pre-trained, all trained": {"method": "fine-tune", "train": {"pretrained_lr": 3e-4}},
    "pre-trained, adapters alone": {"method": "adapter"},
}


def catalogues(setting: Setting) -> Result:
    """Toys to Beauty and back: from scratch against pre-trained, by the number of the target's users."""
    return _by_users(setting, DIRECTIONS[:1] if setting.quick else DIRECTIONS)


def films(setting: Setting) -> Result:
    """Films of other genres and other users: from scratch against pre-trained, by the number of the target's users."""
    return _by_users(setting, (FILMS,))


def _by_users(setting: Setting, directions: Sequence[tuple[str, str]]) -> Result:
    if setting.logs is None:
        return ["Needs --log with toys, beauty and ml-1m."], {}
    lines: list[str] = []
    kept: dict[str, Any] = {}
    most = 1_000 if setting.quick else setting.users
    for source, target in directions:
        sizes = [size for size in SIZES[target] if most is None or size < most] + [most]
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
        "Items are known by features alone (but for scratch: id), benchmarks/transfer/content.py: hashed categories, of"
        " which Toys and Beauty share none; of films genres, decade and title words, which mean the same everywhere."
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


def _data(setting: Setting, name: str, users: int | None) -> Path:
    """Prepared clicks of so many users (None: all); the same catalogue, since its items' features are told."""
    log, folder = ("ml-1m", _films(setting) / name) if name in FILMS else (name, setting.log(name))
    if users:
        folder = some_users(folder, setting.work / "logs" / f"{name}-{users}", users)
    known = {"item_features": setting.content(log)["item_features"], "cold_threshold": 3}
    return setting.prepared(f"{name}-{users or 'all'}", log, interactions=folder / "interactions.parquet", **known)


def _films(setting: Setting) -> Path:
    """The folder of the two parts of MovieLens-1M, without a film or a user in common; made where it is not there."""
    out = setting.work / "logs" / "ml-1m-films"
    if not out.is_dir():
        assert setting.logs
        new = out.with_name(f"{out.name}.new")
        clicks = pq.read_table(setting.logs / "ml-1m" / "interactions.parquet")
        users = np.random.default_rng(0).permutation(pc.unique(clicks["user_id"]).to_numpy())
        for name, items, half in zip(FILMS, items_of(setting, "ml-1m"), np.array_split(users, 2), strict=True):
            part = clicks.filter(
                pc.and_(pc.is_in(clicks["item_id"], pa.array(items)), pc.is_in(clicks["user_id"], pa.array(half)))
            )
            counts = part.group_by("user_id").aggregate([("item_id", "count")])
            enough = counts.filter(pc.greater_equal(counts["item_id_count"], LEAST))["user_id"]
            (new / name).mkdir(parents=True, exist_ok=True)
            pq.write_table(part.filter(pc.is_in(part["user_id"], enough)), new / name / "interactions.parquet")
        new.rename(out)
    return out
