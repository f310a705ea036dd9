"""Figures 3 and 4 as PNG and SVG, from what their tables kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.paper.tables import BASELINE, CONSTANT, PPR
from benchmarks.statistics import compare, from_json

METRICS = ("auc", "hit@10", "ndcg@10")


def draw(name: str, kept: dict[str, Any], title: str, path: Path) -> None:
    """Write ``path``.png and ``path``.svg: gains over fine-tuning in percent, with 95 % intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    methods = PPR if name == "figure3" else (*PPR, CONSTANT)
    figure, every = pyplot.subplots(1, len(METRICS), figsize=(12, 3.8), layout="constrained")
    for axes, metric in zip(every, METRICS, strict=True):
        for method in methods:
            if name == "figure3":
                of = from_json(kept["few-shot sampled-99"][metric])
                names = {"with": method, "without": f"{method}, no contrast"}
                found = {label: compare(of, which, BASELINE) for label, which in names.items()}
            else:
                found = {k: compare(from_json(of[metric]), method, BASELINE) for k, of in kept.items()}
            gain = [100 * each.gain for each in found.values()]
            reach = [100 * (each.gain_high - each.gain) for each in found.values()]
            at = [n + 0.12 * (methods.index(method) - 0.5) for n in range(len(found))]
            axes.errorbar(
                at, gain, yerr=reach, marker="o", capsize=3, label=method, linestyle="-" if name == "figure4" else ""
            )
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_xticks(range(len(found)), list(found))
        axes.set_xlabel("contrastive loss" if name == "figure3" else "clicks before the target, at most")
        axes.set_title(metric.upper())
    every[0].set_ylabel("gain over fine-tune, %")
    every[0].legend()
    figure.suptitle(title)
    for suffix in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{suffix}"), dpi=110)
    pyplot.close(figure)
