"""Pictures as PNG and SVG, from what experiments kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.statistics import compare, from_json


def draw_methods(kept: dict[str, Any], path: Path) -> None:
    """NDCG@10 over the untouched model's by trained parameters, one panel for each log."""
    logs = [name for name in ("ml-1m", "synthetic") if name in kept]
    figure, panels = _panels(len(logs))
    for axes, log in zip(panels, logs, strict=True):
        of = from_json(kept[log]["ndcg@10"])
        for name in of.names:
            about = kept.get(f"{log} {name}")
            if about:
                found = compare(of, name, "pre-train")
                at = about["trainable"] / about["parameters"]
                axes.errorbar(at, found.difference, yerr=found.reach, marker="o", capsize=3)
                axes.annotate(name, (at, found.difference), fontsize=7, xytext=(3, 3), textcoords="offset points")
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(xscale="log", xlabel="share of parameters trained", ylabel="NDCG@10 − untouched", title=log)
    _save(figure, path)


def draw_forgetting(kept: dict[str, Any], path: Path) -> None:
    """The first task after each later one."""
    logs = [name.removesuffix(" continual") for name in kept if name.endswith(" continual")]
    figure, panels = _panels(len(logs))
    for axes, log in zip(panels, logs, strict=True):
        for method in ("continual", "fine-tune"):
            first = np.array([[row[0] for row in of["accuracy"]] for of in kept[f"{log} {method}"]])  # [seeds, tasks]
            spread = first.std(axis=0, ddof=1) if len(first) > 1 else None
            axes.errorbar(range(1, first.shape[1] + 1), first.mean(axis=0), yerr=spread, marker="o", label=method)
        axes.set(xlabel="tasks trained", ylabel="HIT@10 of the next item", title=log, ylim=(0, None))
        axes.legend()
    _save(figure, path)


def draw_cold_items(kept: dict[str, Any], path: Path) -> None:
    """AUC by item encoder, of items that training saw and of those that it did not."""
    logs = [name.removesuffix(" cold-item") for name in kept if name.endswith(" cold-item")]
    figure, panels = _panels(len(logs))
    for axes, log in zip(panels, logs, strict=True):
        for shift, ask in ((-0.2, "next-item"), (0.2, "cold-item")):
            means = from_json(kept[f"{log} {ask}"]["auc"]).means
            axes.bar([n + shift for n in range(len(means))], list(means.values()), width=0.4, label=ask)
        axes.axhline(0.5, color="grey", linewidth=0.8)
        axes.set_xticks(range(len(means)), list(means))
        axes.set(ylabel="AUC", title=log, ylim=(0, 1))
        axes.legend()
    _save(figure, path)


def _panels(count: int) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, count, figsize=(6.5 * count, 4.2), layout="constrained", squeeze=False)
    return figure, panels[0]


def _save(figure: Any, path: Path) -> None:
    for suffix in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{suffix}"), dpi=110)


FIGURES: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "methods": draw_methods,
    "forgetting": draw_forgetting,
    "cold-items": draw_cold_items,
}
