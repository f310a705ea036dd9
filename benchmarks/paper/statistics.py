"""Paired comparisons from sums over users: standard errors clustered by user, intervals, Holm.

A metric of a method is the mean over instances, and a user's instances go together: with s_u the sum over the
instances of user u (mean over the seeds of tuning) and n_u their number, M = Σ s_u / Σ n_u. All that a test of two
methods needs are the sums over users of s, n and their products: no user can be read from them. Users of different
folds are different users, so folds add up.

Shapes: G users, K methods, S seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(128)


@dataclasses.dataclass(frozen=True)
class Sums:
    """Of one metric: what is kept of G users under K methods. The last row and column are those of n."""

    names: tuple[str, ...]
    """Of the methods, [K]."""
    users: int
    total: Array
    """Σ_u x_u for x = (s of each method, n), [K + 1]."""
    products: Array
    """Σ_u x_u x_uᵀ, [K + 1, K + 1]."""
    by_seed: Array
    """Σ_u of s for each seed apart, [K, S]; a method without seeds repeats its one."""

    def __add__(self, other: Sums) -> Sums:
        assert self.names == other.names
        return Sums(
            self.names,
            self.users + other.users,
            self.total + other.total,
            self.products + other.products,
            self.by_seed + other.by_seed,
        )

    @property
    def means(self) -> dict[str, float]:
        """The metric by method."""
        return {name: float(x / self.total[-1]) for name, x in zip(self.names, self.total, strict=False)}

    @property
    def seed_deviations(self) -> dict[str, float]:
        """Standard deviation of the metric over seeds of tuning, by method; NaN of one seed."""
        means = self.by_seed / self.total[-1]
        spread = means.std(axis=1, ddof=1) if means.shape[1] > 1 else np.full(len(means), np.nan)
        return dict(zip(self.names, map(float, spread), strict=True))

    def as_json(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "users": self.users,
            "total": self.total.tolist(),
            "products": self.products.tolist(),
            "by_seed": self.by_seed.tolist(),
        }


def from_json(body: dict[str, Any]) -> Sums:
    arrays = (np.array(body[key]) for key in ("total", "products", "by_seed"))
    return Sums(tuple(body["names"]), body["users"], *arrays)


def sums(values: dict[str, Array], user: npt.NDArray[np.int64]) -> Sums:
    """From ``values`` of each method, [seeds, I] for I instances, of users ``user`` [I]."""
    _, row = np.unique(user, return_inverse=True)
    seeds = max(len(each) for each in values.values())
    by_user = [np.stack([np.bincount(row, weights=seed) for seed in each]) for each in values.values()]  # [seeds, G]
    x = np.stack([*(each.mean(axis=0) for each in by_user), np.bincount(row).astype(float)])  # [K + 1, G]
    by_seed = np.stack([np.resize(each.sum(axis=1), seeds) for each in by_user])
    return Sums(tuple(values), x.shape[1], x.sum(axis=1), x @ x.T, by_seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One method against another in one metric."""

    method: str
    baseline: str
    difference: float
    error: float
    """Standard error of the difference, clustered by user."""
    gain: float
    """Relative to the baseline."""
    gain_low: float
    """Bounds of the 95 % interval of ``gain``, by the delta method."""
    gain_high: float
    effect: float
    """The mean difference of a user over its standard deviation between users (Cohen's d for pairs)."""
    p: float
    """Two-sided, t with G − 1 degrees of freedom."""


def compare(of: Sums, method: str, baseline: str) -> Comparison:
    """Paired by user; of no users that differ, p is 1."""
    a, b, n = of.names.index(method), of.names.index(baseline), len(of.names)
    count = of.total[n]
    difference = (of.total[a] - of.total[b]) / count
    weights = np.zeros(n + 1)
    weights[a], weights[b], weights[n] = 1, -1, -difference
    error = _error(of, weights / count)
    ratio = of.total[a] / of.total[b]
    weights[b], weights[n] = -ratio, 0
    gain_error = _error(of, weights / of.total[b])
    t = difference / error if error > 0 else 0.0
    reach = t_quantile(0.975, of.users - 1) * gain_error
    return Comparison(
        method=method,
        baseline=baseline,
        difference=float(difference),
        error=error,
        gain=float(ratio - 1),
        gain_low=float(ratio - 1 - reach),
        gain_high=float(ratio - 1 + reach),
        effect=t / math.sqrt(of.users),
        p=2 * t_tail(abs(t), of.users - 1),
    )


def _error(of: Sums, weights: Array) -> float:
    """Standard error of a statistic whose user u counts for weights · x_u, which add up to 0 over the users."""
    variance = float(weights @ of.products @ weights) * of.users / (of.users - 1)
    scale = float(np.abs(weights) @ np.abs(of.products) @ np.abs(weights))
    return math.sqrt(variance) if variance > 1e-12 * scale else 0.0  # below it is rounding


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the family-wise error rate is at most the level."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, so_far = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = so_far
    return adjusted


def t_tail(t: float, df: int) -> float:
    """P(T > t) of Student's t, t ≥ 0: with t = √df · tan θ it is c ∫ cos^(df−1) θ dθ, by Gauss–Legendre."""
    low = math.atan(t / math.sqrt(df))
    high = min(math.pi / 2, low + 14 / math.sqrt(df))  # beyond is below 1e-20
    theta = low + (high - low) * (NODES + 1) / 2
    area = float(WEIGHTS @ np.cos(theta) ** (df - 1)) * (high - low) / 2
    return math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi) * area


def t_quantile(probability: float, df: int) -> float:
    """The value below which T stays with a ``probability`` of at least one half; by bisection."""
    low, high = 0.0, 1e3
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, df) > 1 - probability else (low, middle)
    return (low + high) / 2
