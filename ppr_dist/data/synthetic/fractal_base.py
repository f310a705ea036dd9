"""What a fractal expansion (:mod:`~.fractal`) starts from: the log in memory, and its reduced matrix.

Shapes: U users, I items, N clicks of the log; a, b factors; k = min(a, b) singular triplets.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ppr_dist.arrays import Int64Array
from ppr_dist.data.prepare import logs
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.profiles import find_kinds, load_profiles
from ppr_dist.data.prepare.sources import connect, identifier, open_source
from ppr_dist.errors import UserError

Float64 = npt.NDArray[np.float64]

OVERSAMPLING = 10
"""Singular triplets beyond k in the randomised SVD (Halko, Martinsson & Tropp, 2011, §1.3: 5 to 10)."""
ITERATIONS = 4
"""Its subspace iterations."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FractalConfig:
    """Size of the expansion; raises :class:`UserError` on a value out of range."""

    factor_users: int
    """Copies a of each user; no more than users in the log."""
    factor_items: int
    """Copies b of each item; no more than items in the log."""
    seed: int = 0
    """Seed of everything."""
    activity: float | None = None
    """Mean clicks of an expanded user over those of a user of the log; null = 1, or the most there can be if less."""
    max_clicks: int | None = None
    """Most clicks of a user, the oldest ones; null = all."""

    def __post_init__(self) -> None:
        for name, low in (("factor_users", 1), ("factor_items", 1), ("seed", 0), ("max_clicks", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"{name} must be at least {low}, got {value}")
        if self.activity is not None and not self.activity > 0.0:
            raise UserError(f"activity must be positive, got {self.activity}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseLog:
    """The log that is expanded, in memory."""

    item: Int64Array
    """Items v of all clicks, user after user, oldest first, [N]."""
    offsets: Int64Array
    """Where each user's clicks start, [U + 1]."""
    items: int
    """Items I."""
    profiles: pa.Table
    """One column per attribute, row u for user u."""

    @property
    def users(self) -> int:
        return len(self.offsets) - 1


def read_base(interactions: str, users: str) -> BaseLog:
    """Read and check the log and the profiles as ``prepare`` does; columns have its default names."""
    names = PrepareConfig()
    with connect() as con:
        log, profiles = open_source(con, interactions), open_source(con, users)
        item_type = logs.id_types(con, log, names.item_column)[0]
        user_types = logs.id_types(con, log, names.user_column)
        types = logs.id_types(con, profiles, names.user_column)
        user_type = logs.shared_id_types(log, user_types, profiles, types)[0]
        logs.load_interactions(con, log, names, user_type, item_type)
        kinds = find_kinds(con, profiles, [name for name in profiles.columns if name != names.user_column])
        load_profiles(con, profiles, names.user_column, user_type, kinds)
        con.execute(
            "CREATE TABLE people AS SELECT user_id, row_number() OVER (ORDER BY user_id) - 1 AS u"
            " FROM (SELECT user_id FROM log UNION SELECT user_id FROM raw_profile)"
        )
        con.execute(
            "CREATE TABLE vocabulary AS SELECT item_id, row_number() OVER (ORDER BY item_id) - 1 AS v"
            " FROM (SELECT DISTINCT item_id FROM log)"
        )
        clicks = con.sql(
            "SELECT u, v FROM log JOIN people USING (user_id) JOIN vocabulary USING (item_id) ORDER BY u, nth"
        ).to_arrow_table()
        columns = "".join(
            f", CAST(a{k} AS {'BIGINT' if kind == 'integer' else 'DOUBLE' if kind == 'number' else 'VARCHAR'})"
            f" AS {identifier(name)}"
            for k, (name, kind) in enumerate(kinds.items())
        )
        table = con.sql(
            f"SELECT people.u AS user_id{columns} FROM people LEFT JOIN raw_profile USING (user_id) ORDER BY people.u"
        )
        people = table.to_arrow_table()
    counts = np.bincount(clicks["u"].to_numpy(), minlength=people.num_rows)
    item = clicks["v"].to_numpy().astype(np.int64)
    return BaseLog(
        item=item,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=int(item.max()) + 1,
        profiles=people.drop_columns("user_id").combine_chunks(),
    )


def probabilities(base: BaseLog, config: FractalConfig) -> Float64:
    """Return P [a, b]. Raises :class:`UserError` where a factor or the activity is too large for the log."""
    for name, factor, size in (
        ("factor_users", config.factor_users, base.users),
        ("factor_items", config.factor_items, base.items),
    ):
        if factor > size:
            raise UserError(f"{name} must be no more than the {size:,} in the log, got {factor}")
    weight = np.maximum(reduced(base, config), 0.0)
    # Rounded, so that another BLAS or thread count, which differs by 1e-15, does not show.
    weight = np.round(weight / weight.max(), 6)
    most = weight.sum() / config.factor_users
    activity = min(1.0, most) if config.activity is None else config.activity
    if activity > most:
        raise UserError(f"activity must be at most {most:.3f} for these factors and this log, got {activity}")
    result: Float64 = weight * (activity / most)
    return result


def reduced(base: BaseLog, config: FractalConfig) -> Float64:
    """Return R̂ [a, b], whose singular values are the largest min(a, b) of the log."""
    a, b = config.factor_users, config.factor_items
    counts = np.diff(base.offsets)
    place = torch.from_numpy(np.stack([np.repeat(np.arange(base.users), counts), base.item]))
    ones = torch.ones(len(base.item), dtype=torch.float64)
    matrix = torch.sparse_coo_tensor(place, ones, (base.users, base.items), check_invariants=True).coalesce()
    k = min(a, b)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        # U and V of the literature: X and Y here, for U counts users.
        x, sigma, y = torch.svd_lowrank(matrix, q=min(k + OVERSAMPLING, *matrix.shape), niter=ITERATIONS)
    popularity = np.bincount(base.item, minlength=base.items)
    left = _orthonormal(_group_means(x[:, :k].numpy(), counts, a))
    right = _orthonormal(_group_means(y[:, :k].numpy(), popularity, b))
    result: Float64 = (left * sigma[:k].numpy()) @ right.T
    return result


def _group_means(vectors: Float64, size: Int64Array, groups: int) -> Float64:
    """Return the mean vector of each of ``groups`` equal groups, the largest ``size`` first."""
    order = np.argsort(-size, kind="stable")
    return np.stack([vectors[members].mean(axis=0) for members in np.array_split(order, groups)])


def _orthonormal(matrix: Float64) -> Float64:
    """Return the nearest matrix with orthonormal columns: M (MᵀM)^−½, the polar factor."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    result: Float64 = left @ right
    return result
