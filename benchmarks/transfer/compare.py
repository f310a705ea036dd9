"""Rows of an experiment against one of them, paired by user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.markdown import difference, markdown
from benchmarks.statistics import Sums, compare, holm, metric_of, sums
from benchmarks.transfer.training import Training
from ppr_dist.errors import UserError

SHOWN = ("auc", "hit@10", "ndcg@10")


def collect(
    rows: Mapping[str, Sequence[Training]],
    ask: str,
    metrics: Sequence[str] = SHOWN,
    other: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Sums]:
    """Of each metric, sums over the users asked under ``ask``, of rows in ``other`` under the name that it has for
    them; one training for each seed of a row.

    Raises :class:`UserError` where rows rank other instances.
    """
    ranks = {name: [training.ranks(other.get(name, ask)) for training in of] for name, of in rows.items()}
    first = next(iter(ranks.values()))[0]
    for each in (one for of in ranks.values() for one in of):
        if any(not np.array_equal(each[key], first[key]) for key in ("user_id", "position")):
            raise UserError(f"runs rank other instances under {ask!r}: delete their folders and run again")
    _, user = np.unique(first["user_id"], return_inverse=True)
    measured: dict[str, dict[str, Any]] = {
        metric: {
            name: np.stack([metric_of(one["rank"], one["candidates"], metric) for one in of])
            for name, of in ranks.items()
        }
        for metric in metrics
    }
    return {metric: sums(of, user) for metric, of in measured.items()}


def by_seed(rows: Mapping[str, Sequence[Training]]) -> list[Training]:
    """All trainings, seed after seed."""
    return [training for of_seed in zip(*rows.values(), strict=True) for training in of_seed]


def table(of: Mapping[str, Sums], baseline: str, single: Sequence[str] = ()) -> list[str]:
    """Means ± deviation between seeds (rows in ``single`` have none), and differences from ``baseline``."""
    first = next(iter(of.values()))
    rivals = [name for name in first.names if name != baseline]
    found = {(name, metric): compare(each, name, baseline) for name in rivals for metric, each in of.items()}
    adjusted = dict(zip(found, holm([each.p for each in found.values()]), strict=True))
    rows = []
    for name in first.names:
        cells = []
        for metric, each in of.items():
            spread = each.seed_deviations[name]
            seeds = f" ± {spread:.4f}" if name not in single and np.isfinite(spread) else ""
            against = ""
            if name != baseline:
                star = "\\*" if adjusted[name, metric] < 0.05 else ""
                against = f"; {difference(found[name, metric])}{star}"
            cells.append(f"{each.means[name]:.4f}{seeds}{against}")
        rows.append([name, *cells])
    note = (
        f"{int(first.total[-1]):,} instances of {first.users:,} users. ± is the deviation between seeds; then the"
        f" difference from {baseline} with its 95 % interval, paired by user (means over seeds); \\*: Holm-corrected"
        f" p < 0.05 over these {len(found)} tests."
    )
    return [*markdown(["", *(metric.upper() for metric in of)], rows), "", note]
