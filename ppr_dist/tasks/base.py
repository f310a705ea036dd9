"""What a task is: what is asked of which users, and how the answers are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ppr_dist.arrays import Int64Array
from ppr_dist.config import Config
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.stream.users import Users
from ppr_dist.protocol import negatives
from ppr_dist.scoring import Scorer


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Ranked instances, one entry each, in the order of (user, position)."""

    users: Int64Array
    """User index."""
    positions: Int64Array
    """Clicks before the target."""
    items: Int64Array
    """The target."""
    ranks: Int64Array
    """1 = best."""
    candidates: Int64Array
    """How many were ranked, the target included."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation of any task is given."""

    task: str
    """Its name."""
    scorer: Scorer
    data: Path
    manifest: Manifest
    protocol: str
    """``full`` or ``sampled-N`` (:mod:`ppr_dist.protocol`)."""
    config: Config
    """Of the model."""
    metrics: tuple[str, ...]
    split: str
    speaks: bool
    """Whether this rank warns."""
    target_time: bool
    """Whether the model sees when the target was clicked."""
    seed: int = 0
    """Of the sampled negatives."""
    seen_targets: bool = True
    """Whether targets that the user had clicked before are ranked too."""
    keep: Callable[[Evaluated], None] | None = None
    """Hears this rank's instances, block after block."""


class Task:
    """A question to the users of a split, and its metrics from sums that add up over blocks of users and ranks."""

    split: ClassVar[str] = "tune-test"
    """By default."""
    protocol: ClassVar[str | None] = None
    """How it is measured, where it is no ranking under ``evaluation.protocol``."""
    best_metric: ClassVar[str] = "ndcg@10"
    """What a run validated by this task chooses its best checkpoint by, unless it says otherwise."""
    has_targets: ClassVar[bool] = True
    """Whether it asks for a click, whose time the model may see (``evaluation.target_time``)."""
    cold: ClassVar[bool] = True
    """Whether it is about users whom no training may have seen."""

    def metric_names(self) -> tuple[str, ...]:
        """The metrics it has."""
        raise NotImplementedError

    def check(self, config: Config, *, by_model: bool) -> None:
        """Raise :class:`~ppr_dist.errors.UserError` where a run of ``config`` has no answer.

        ``by_model``: whether it is the model that scores, and no baseline.
        """

    def sums(self, evaluation: Evaluation, users: Users) -> dict[str, Tensor]:
        """Float64 by name, the same names and shapes for any users, none included. A collective."""
        raise NotImplementedError

    def finish(self, evaluation: Evaluation, sums: dict[str, Tensor]) -> dict[str, Any]:
        """Metrics of all users and ranks.

        Raises :class:`~ppr_dist.errors.UserError` where there was nothing to measure.
        """
        raise NotImplementedError

    def lines(self, figures: dict[str, Any], protocol: str) -> list[dict[str, Any]]:
        """The lines in which ``evaluate`` says what it found; ``protocol``: how rankings were to be made."""
        return [figures]

    def candidates(self, manifest: Manifest, line: dict[str, Any]) -> str:
        """What was ranked, for the line's passport."""
        if count := negatives(line["protocol"]):
            return f"the target and {count} uniform unclicked items"
        if line["protocol"] == "full":
            return f"all {manifest.items} items but those seen"
        return f"none: {line['protocol']}"
