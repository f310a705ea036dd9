"""What a metric line says of how it was measured, so that only like is set beside like.

Two figures compare where all of their passports agree but :data:`MAY_DIFFER`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ppr_dist.protocol import negatives

if TYPE_CHECKING:  # report reads passports, and should not wait for torch
    from ppr_dist.data.manifest import Manifest
    from ppr_dist.evaluate import Arguments
    from ppr_dist.runs import RunInfo
    from ppr_dist.tasks.base import Task

MAY_DIFFER = ("seeds.pretrain", "seeds.tune")
"""Seeds of the model: another draw of the same figure."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passport:
    """All of it is recorded: in the data's manifest, in the run's ``run.json``, or by ``evaluate``."""

    order: str
    """Column that orders a user's clicks."""
    ties: str
    """What orders those that are alike in it."""
    tied_clicks: float
    """Share of the log's clicks that share their place in the order with another click of the user."""
    split: str
    fold: str
    """Which share of the cold users is for testing, of how many."""
    candidates: str
    target_time: bool
    """Whether the model sees when the target was clicked."""
    trained_on_validation: bool
    """Whether training saw the warm users' last click but one, the validation target."""
    seen_targets: bool
    """Whether targets that the user had clicked before are ranked too."""
    seeds: dict[str, int | None]
    """Of prepare, pre-training, tuning and the negatives; null where there is none, or the run does not say."""


def passport(manifest: Manifest, info: RunInfo, arguments: Arguments, task: Task, line: dict[str, Any]) -> Passport:
    """Of a line that ``evaluate`` writes for ``task``."""
    settings = manifest.settings
    fraction = settings["tune_test_fraction"]
    return Passport(
        order=settings["order_column"],
        ties=f"hash of (seed {settings['seed']}, user, item)",
        tied_clicks=round(manifest.clicks["tied"] / manifest.clicks["read"], 6),
        split=task.split,
        fold=f"{settings.get('tune_test_fold', 1)} of {1 / fraction:g}" if fraction else "none",
        candidates=task.candidates(manifest, line),
        target_time=bool(line["target_time"]),
        trained_on_validation=info.trained_on_validation,
        seen_targets=not arguments.leave_out_seen,
        seeds={
            "prepare": settings["seed"],
            "pretrain": info.seeds.get("pretrain"),
            "tune": info.seeds.get("tune"),
            "negatives": None if negatives(line["protocol"]) is None else arguments.seed,
        },
    )


def fields(body: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names (``seeds.tune``) and values of a passport as it stands in a line."""
    for name, value in body.items():
        if isinstance(value, dict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def difference(first: dict[str, Any], second: dict[str, Any]) -> str | None:
    """The first field that keeps two lines' figures from being compared, or None; two passports as they are written."""
    ours, theirs = dict(fields(first)), dict(fields(second))
    names = [name for name in {**ours, **theirs} if name not in MAY_DIFFER]
    return next((name for name in names if ours.get(name) != theirs.get(name)), None)
