"""What ``prepare`` can be told."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Literal

from ppr_dist.data.manifest import TOKEN_BASE
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Options of ``python -m ppr_dist.prepare``; raises :class:`UserError` on a value out of range."""

    seed: int = 0
    """Seed of every hash: order of items and users, choice of simulated cold users, tune split."""

    cold_threshold: int = 10
    """Interactions; a user with fewer is cold."""

    simulate_cold: float = 0.0
    """Share of the warm users (0 to 1) cut to their first ``cold_threshold - 1`` interactions."""

    min_item_count: int = 1
    """Interactions; items seen fewer times in the log are dropped, in one pass before users are split."""

    deduplicate: Literal["exact", "consecutive"] | None = None
    """Clicks to leave out: ``exact``, rows with the user, item and time or position of another (a log delivered twice);
    ``consecutive``, also a click on the item of the click before; null = none."""

    hide_items: float = 0.0
    """Share of the items (0 to 1), by seeded hash, on which training sees no click: of theirs there are left each warm
    user's last one and those of the users of tune-test and tune-validation, for ``evaluate --task cold-item``."""

    code_levels: int = 0
    """Codes of an item, found from its features by residual k-means, for the item encoder ``codes``; 0 = none."""

    code_values: int = 256
    """Values a code can have, at most 2,047."""

    code_features: list[str] | None = None
    """Names of the item features that codes are found from, joined; null = all."""

    text_columns: list[str] | str | None = None
    """Columns of --items that make an item's text, as a list or comma-separated; null = all of text or lists of it."""

    text_length: int = 16
    """Words kept of a text: its first."""

    min_word_count: int = 2
    """Words that stand in the texts fewer times are left out."""

    vocabulary: int = 30_000
    """Words that are told apart, the most frequent ones; each has a row of ``model.dim`` weights."""

    tune_test_fraction: float = 0.2
    """Share of the cold users (0 to 1) that goes to tune-test; the others are tune-train."""

    tune_test_fold: int = 1
    """Which share of that size goes to tune-test, in the order of a seeded hash: 1 to 1 / ``tune_test_fraction``. Over
    all of them each cold user is tested once (cross-validation)."""

    tune_validation_fraction: float = 0.0
    """Share of the users of tune-train (0 to 1) that goes to tune-validation instead: they choose the best checkpoint
    of a tuning run."""

    tune_train_users: int | None = None
    """Most users in tune-train; those left over are in no split. null = all. Fewer are a subset of more."""

    cold_clicks: int | None = None
    """Clicks kept of each cold user, the first ones (PPR §4.8); null = all. Items keep their indices, so a pre-trained
    run fits; with 1 there is no few-shot instance."""

    users_per_member: int = 1024
    """Users in one Arrow record batch (one member of a tar shard)."""

    members_per_shard: int = 8
    """Record batches in one tar shard."""

    attributes: list[str] | str | None = None
    """Profile columns to use, as a list or comma-separated; null = all but the user column."""

    min_attribute_count: int = 2
    """Categories of fewer tune-train users (of all users where there are none of these) are unknown; 0 = keep all."""

    buckets: dict[str, int | list[float]] = dataclasses.field(default_factory=dict)
    """Numeric profile column to a number of quantile buckets, or to the increasing edges between buckets."""

    user_column: str = "user_id"
    """Column of the user id, in both files."""

    item_column: str = "item_id"
    """Column of the item id."""

    order_column: str | None = None
    """Column that orders a user's interactions; null = ``position`` if present, else ``timestamp``."""

    time_column: str | None = None
    """Column of a click's time; null = ``timestamp`` if present, else the order column where it holds
    timestamps; '' = none. The data keeps the times, in whole seconds, where every click has one."""

    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of times that are numbers, since 1970; times outside 1970 to 2100 are refused."""

    memory_limit: str | None = None
    """Memory DuckDB may use before it spills, e.g. ``4GB``; null = DuckDB's default (80 % of the machine)."""

    temp_dir: str | None = None
    """Folder for intermediate tables and spills; null = beside the output."""

    def __post_init__(self) -> None:
        for name, low in (
            ("cold_threshold", 2),
            ("min_item_count", 1),
            ("code_levels", 0),
            ("code_values", 2),
            ("text_length", 1),
            ("min_word_count", 1),
            ("vocabulary", 1),
            ("min_attribute_count", 0),
            ("users_per_member", 1),
            ("members_per_shard", 1),
            ("tune_test_fold", 1),
            ("tune_train_users", 1),
            ("cold_clicks", 1),
        ):
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise UserError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for name in ("simulate_cold", "hide_items", "tune_test_fraction", "tune_validation_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        folds = 1 / self.tune_test_fraction if self.tune_test_fraction else 1.0
        if self.tune_test_fold > 1 and (self.tune_test_fold > folds + 0.5 or abs(folds - round(folds)) > 1e-6):
            raise UserError(
                f"tune_test_fold {self.tune_test_fold}: tune_test_fraction {self.tune_test_fraction} makes"
                f" {folds:g} folds; it takes a whole number of them, and one that there is"
            )
        if self.code_values >= TOKEN_BASE:
            raise UserError(f"code_values must be less than {TOKEN_BASE}, got {self.code_values}")
        if self.vocabulary >= TOKEN_BASE**2:
            raise UserError(f"vocabulary must be less than {TOKEN_BASE**2:,}, got {self.vocabulary:,}")
        for column, buckets in self.buckets.items():
            if isinstance(buckets, list):
                if not buckets or any(a >= b for a, b in itertools.pairwise(buckets)):
                    raise UserError(f"buckets.{column}: edges must be increasing, got {buckets}")
            elif buckets < 1:
                raise UserError(f"buckets.{column}: needs at least 1 bucket, got {buckets}")

    def attribute_names(self) -> list[str] | None:
        """Return ``attributes`` as a list (None = all)."""
        return _names(self.attributes)

    def text_column_names(self) -> list[str] | None:
        """Return ``text_columns`` as a list (None = all)."""
        return _names(self.text_columns)

    def settings(self, order_column: str, time_column: str) -> dict[str, Any]:
        """Return what decides the output, for the manifest: no limits of the machine, no paths."""
        settings = dataclasses.asdict(self)
        settings.update(attributes=self.attribute_names(), order_column=order_column, time_column=time_column)
        del settings["memory_limit"], settings["temp_dir"]
        return settings


def _names(given: list[str] | str | None) -> list[str] | None:
    """A list, or what is separated by commas."""
    return [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given
