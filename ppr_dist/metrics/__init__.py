"""Ranking metrics: one file each, found here by name."""

from collections.abc import Callable

from ppr_dist.metrics.auc import AUC
from ppr_dist.metrics.base import Metric
from ppr_dist.metrics.coverage import Coverage
from ppr_dist.metrics.hit import Hit
from ppr_dist.metrics.mrr import MRR
from ppr_dist.metrics.ndcg import NDCG


def _at(name: str, metric: Callable[[int], Metric]) -> dict[str, Metric]:
    return {f"{name}@{cutoff}": metric(cutoff) for cutoff in (5, 10, 20, 50)}


METRICS: dict[str, Metric] = {
    "auc": AUC(),
    "hit@1": Hit(1),
    **_at("hit", Hit),
    **_at("ndcg", NDCG),
    **_at("mrr", MRR),
    **_at("coverage", Coverage),
}

USUAL = tuple(name for name, metric in METRICS.items() if not metric.needs_best and name != "hit@1")
"""What is computed unless others are asked for."""
