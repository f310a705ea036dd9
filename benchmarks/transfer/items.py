"""Item encoders: on items that training never saw, and where the only difference is how an item is described."""

from __future__ import annotations

from typing import Any

from benchmarks.transfer import compare
from benchmarks.transfer.setting import NEXT, Result, Setting

ENCODERS: dict[str, dict[str, Any]] = {
    "id": {},
    "features": {"model": {"item_encoders": ["features"]}},
    "codes": {"model": {"item_encoders": ["codes"]}},
    "tokens": {"model": {"item_encoders": ["tokens"]}},
    "id + features": {"model": {"item_encoders": ["id", "features"]}},
}
MOREC: dict[str, dict[str, Any]] = {
    "id": {},
    "two-stage: features": {"model": {"item_encoders": ["features"]}, "features": {"hidden": 128}},
    "end to end: tokens": {"model": {"item_encoders": ["tokens"]}},
}
COLD = {"task": "cold-item", "protocol": "full"}
HIDDEN = 0.05


def cold_items(setting: Setting) -> Result:
    """Items that training never saw (5 % hidden), by each item encoder."""
    lines: list[str] = []
    kept: dict[str, Any] = {}
    for log in setting.names:
        data = _data(setting, log, "hidden", hide_items=HIDDEN)
        asks = {"cold-item": COLD, "next-item": NEXT}
        rows = {
            name: [
                setting.pretraining(f"{log}/hidden/{name.replace(' ', '')}", data, seed, options, asks=asks)
                for seed in range(setting.seeds)
            ]
            for name, options in ENCODERS.items()
        }
        setting.run(compare.by_seed(rows), f"{log}: cold items")
        for ask in asks:
            of = compare.collect(rows, ask)
            lines += ["", f"## {log}, {ask}", "", *compare.table(of, "id")]
            kept[f"{log} {ask}"] = {metric: each.as_json() for metric, each in of.items()}
    note = (
        "Ranked in the whole catalogue, hidden items among it. cold-item: warm users whose last click is on a hidden"
        " item; next-item: the last click of all. Chance is AUC 0.5."
    )
    return [note, *lines], kept


def items(setting: Setting) -> Result:
    """MoRec against IDRec, two-stage (frozen features) against end to end (tokens), by two backbones."""
    lines: list[str] = []
    kept: dict[str, Any] = {}
    for log in setting.names:
        data = _data(setting, log, "shown")
        for backbone in ("sasrec", "dssm"):
            rows = {
                name: [
                    setting.pretraining(
                        f"{log}/shown/{backbone}-{name.split(':')[0].replace(' ', '-')}",
                        data,
                        seed,
                        options,
                        {"model": {"backbone": backbone}},
                        asks={"next-item": NEXT},
                    )
                    for seed in range(setting.seeds)
                ]
                for name, options in MOREC.items()
            }
            setting.run(compare.by_seed(rows), f"{log}: items, {backbone}")
            of = compare.collect(rows, "next-item")
            lines += ["", f"## {log}, {backbone}", "", *compare.table(of, "id")]
            kept[f"{log} {backbone}"] = {metric: each.as_json() for metric, each in of.items()}
            kept[f"{log} {backbone} seconds"] = {n: [t.result()["cpu_seconds"] for t in of] for n, of in rows.items()}
    return lines[1:], kept


def _data(setting: Setting, log: str, name: str, **options: Any) -> Any:
    rare = {"min_item_count": 5} if log == "ml-1m" else {"cold_threshold": 4}
    return setting.prepared(f"{log}-{name}", log, **rare, **setting.content(log), **options)
