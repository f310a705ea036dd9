"""Paired comparisons from sums over users: standard errors clustered by user and by seed, intervals, Holm.

A metric of a method is the mean over instances, and a user's instances go together: with s_u the sum over the
instances of user u (mean over the seeds of tuning) and n_u their number, M = Σ s_u / Σ n_u. All that a test of two
methods needs are the sums over users of s, n and their products: no user can be read from them. Users of different
folds are different users, so folds add up.

Users are not all that varies: tuned with other seeds, a method would score otherwise for all users together. Where that
is as large as the users' noise, equal methods would differ "significantly" in a sixth of all cases. So each method's
variance between its S seeds, over S, is added. It holds the users' noise between seeds once more: equal methods differ
in 5 % of the cases at most, and in 1 to 3 % where seeds move no users together (measured).

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
    """Standard error of the difference, over users and seeds."""
    reach: float
    """The 95 % interval of the difference is it, this much less and more."""
    user_error: float
    """That of other users alone, with the models as they are."""
    gain: float
    """Relative to the baseline; NaN where that is 0."""
    gain_low: float
    """Bounds of the 95 % interval of ``gain``, by the delta method."""
    gain_high: float
    effect: float
    """The mean difference of a user over its standard deviation between users (Cohen's d for pairs)."""
    p: float
    """Two-sided, t with the degrees of freedom of Satterthwaite's formula."""


def metric_of(rank: npt.NDArray[Any], candidates: npt.NDArray[Any], metric: str) -> Array:
    """A metric of each instance, [I]; rank 1 is the best of so many candidates."""
    if metric == "auc":
        return np.asarray(1 - (rank - 1) / np.maximum(candidates - 1, 1))
    return at_cutoff(rank, metric)


def at_cutoff(rank: npt.NDArray[Any], metric: str) -> Array:
    """hit@N or ndcg@N of each instance, [I]; rank 1 is the best, inf: not ranked."""
    name, at = metric.split("@")
    hit = rank <= int(at)
    return np.asarray(hit if name == "hit" else hit / np.log2(rank + 1), np.float64)


def compare(of: Sums, method: str, baseline: str) -> Comparison:
    """Paired by user; where nothing differs, p is 1. With one seed nothing is known of others: users alone count."""
    a, b, n = of.names.index(method), of.names.index(baseline), len(of.names)
    count = of.total[n]
    difference = (of.total[a] - of.total[b]) / count
    weights = np.zeros(n + 1)
    weights[a], weights[b], weights[n] = 1, -1, -difference
    user_error = _error(of, weights / count)
    between = [_seed_variance(of, each) for each in (a, b)]
    error, df = _together(of, user_error, between)
    ratio, reach = math.nan, math.nan
    if of.total[b]:
        ratio, of_mean = of.total[a] / of.total[b], (of.total[b] / count) ** 2
        weights[b], weights[n] = -ratio, 0
        parts = between[0] / of_mean, between[1] * ratio**2 / of_mean
        gain_error, gain_df = _together(of, _error(of, weights / of.total[b]), parts)
        reach = t_quantile(0.975, gain_df) * gain_error
    t = difference / error if error > 0 else 0.0
    return Comparison(
        method=method,
        baseline=baseline,
        difference=float(difference),
        error=error,
        reach=t_quantile(0.975, df) * error,
        user_error=user_error,
        gain=float(ratio - 1),
        gain_low=float(ratio - 1 - reach),
        gain_high=float(ratio - 1 + reach),
        effect=float(difference / user_error) / math.sqrt(of.users) if user_error > 0 else 0.0,
        p=2 * t_tail(abs(t), df),
    )


def _seed_variance(of: Sums, method: int) -> float:
    """Of a method's mean over its S seeds; 0 where there is one seed, or nothing that has seeds."""
    seeds = of.by_seed.shape[1]
    return float((of.by_seed[method] / of.total[-1]).var(ddof=1)) / seeds if seeds > 1 else 0.0


def _together(of: Sums, user_error: float, between: Sequence[float]) -> tuple[float, float]:
    """The standard error of users and seeds, and its degrees of freedom (Satterthwaite)."""
    parts = [(user_error**2, of.users - 1), *((each, of.by_seed.shape[1] - 1) for each in between if each)]
    variance = sum(part for part, _ in parts)
    if not variance:
        return 0.0, of.users - 1
    return math.sqrt(variance), variance**2 / sum(part**2 / df for part, df in parts)


def _error(of: Sums, weights: Array) -> float:
    """Standard error of a statistic whose user u counts for weights · x_u, which add up to 0 over the users."""
    variance = float(weights @ of.products @ weights) * of.users / (of.users - 1)
    scale = float(np.abs(weights) @ np.abs(of.products) @ np.abs(weights))
    return math.sqrt(variance) if variance > 1e-12 * scale else 0.0  # below it is rounding


def corrected_t(differences: Array, folds: int) -> tuple[float, float, float]:
    """Mean of the differences of F of ``folds`` folds, [F], how far its 95 % interval reaches, and its two-sided p.

    Folds test other users, but are trained on many of the same, so that their differences vary together: to 1 / F of
    the variance between them comes the users tested over those trained on (Nadeau & Bengio, Machine Learning 2003, §4).
    """
    count = len(differences)
    error = math.sqrt(float(differences.var(ddof=1)) * (1 / count + 1 / (folds - 1)))
    mean = float(differences.mean())
    p = 2 * t_tail(abs(mean) / error, count - 1) if error > 0 else 1.0
    return mean, t_quantile(0.975, count - 1) * error, p


def variance_components(values: Array) -> tuple[float, float]:
    """Of a metric [P, S] by pre-training and seed of tuning: variances between pre-trainings, and between seeds within.

    One-way analysis of variance: the means of P pre-trainings also differ by their seeds', a share of 1 / S. The first
    is not below 0; NaN of one pre-training.
    """
    within = float(values.var(axis=1, ddof=1).mean())
    if len(values) < 2:
        return math.nan, within
    return max(0.0, float(values.mean(axis=1).var(ddof=1)) - within / values.shape[1]), within


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the family-wise error rate is at most the level."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, so_far = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = so_far
    return adjusted


def t_tail(t: float, df: float) -> float:
    """P(T > t) of Student's t, t ≥ 0: with t = √df · tan θ it is c ∫ cos^(df−1) θ dθ, by Gauss–Legendre."""
    low = math.atan(t / math.sqrt(df))
    high = min(math.pi / 2, low + 14 / math.sqrt(df))  # beyond is below 1e-20
    theta = low + (high - low) * (NODES + 1) / 2
    area = float(WEIGHTS @ np.cos(theta) ** (df - 1)) * (high - low) / 2
    return math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi) * area


def t_quantile(probability: float, df: float) -> float:
    """The value below which T stays with a ``probability`` of at least one half; by Newton.

    From 0 on the tail is convex, so that every step stays below the value and comes nearer.
    """
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    t, step = 0.0, 1.0
    while step > 1e-9:
        step = (t_tail(t, df) - (1 - probability)) / (scale * (1 + t * t / df) ** (-(df + 1) / 2))
        t += step
    return t
