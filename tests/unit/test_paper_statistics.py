"""Paired tests against direct formulas, tables of Student's t, and data without an effect."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from benchmarks.paper.statistics import compare, from_json, holm, sums, t_quantile, t_tail


def data(seed: int, effect: float = 0.0, users: int = 60) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two methods with 3 seeds each; a user's instances, 1 to 9, share most of the difference between the methods."""
    draw = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), draw.integers(1, 10, users))
    common, own = draw.normal(size=len(user)), draw.normal(size=users)[user]
    noise = draw.normal(size=(2, 3, len(user))) * 0.3
    return {"a": 1 + common + noise[0] + effect + own, "b": 1 + common + noise[1]}, user


def test_agrees_with_direct_formulas() -> None:
    values, user = data(1, effect=0.3)
    found = compare(sums(values, user), "a", "b")
    a, b = (values[name].mean(axis=0) for name in "ab")
    difference = a - b
    assert found.difference == pytest.approx(difference.mean())
    by_user = [difference[user == u] - difference.mean() for u in range(60)]
    variance = sum(each.sum() ** 2 for each in by_user) / len(user) ** 2 * 60 / 59
    assert found.error == pytest.approx(math.sqrt(variance))
    assert found.gain == pytest.approx(a.mean() / b.mean() - 1)
    assert found.effect == pytest.approx(found.difference / found.error / math.sqrt(60))
    # The jackknife over users is another way to the same interval.
    left_out = np.array([a[user != u].mean() / b[user != u].mean() - 1 for u in range(60)])
    error = math.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum())
    assert (found.gain_high - found.gain_low) / 2 == pytest.approx(t_quantile(0.975, 59) * error, rel=0.05)


def test_users_with_one_instance_are_the_paired_t_test() -> None:
    draw = np.random.default_rng(2)
    a, b = draw.normal(0.4, 1, 25), draw.normal(0, 1, 25)
    found = compare(sums({"a": a[None], "b": b[None]}, np.arange(25)), "a", "b")
    t = (a - b).mean() / ((a - b).std(ddof=1) / 5)
    assert found.difference / found.error == pytest.approx(t)


def test_folds_add_up_and_survive_a_file() -> None:
    values, user = data(3, effect=0.2)
    whole = sums(values, user)
    parts = [sums({n: v[:, which] for n, v in values.items()}, user[which]) for which in (user < 20, user >= 20)]
    read = [from_json(json.loads(json.dumps(part.as_json()))) for part in parts]
    assert compare(read[0] + read[1], "a", "b").p == pytest.approx(compare(whole, "a", "b").p)
    assert (read[0] + read[1]).seed_deviations == pytest.approx(whole.seed_deviations)
    assert whole.seed_deviations["a"] == pytest.approx(values["a"].mean(axis=1).std(ddof=1))


def test_a_method_against_itself() -> None:
    values, user = data(4)
    found = compare(sums(values | {"again": values["a"]}, user), "again", "a")
    assert (found.difference, found.error, found.p) == (0, 0, pytest.approx(1))


@pytest.mark.parametrize(
    ("df", "quantile"), [(1, 12.7062), (2, 4.30265), (10, 2.22814), (30, 2.04227), (120, 1.97993), (1207, 1.96194)]
)
def test_student_t(df: int, quantile: float) -> None:
    assert t_quantile(0.975, df) == pytest.approx(quantile, abs=1e-4)
    assert t_tail(0, df) == pytest.approx(0.5)
    assert t_tail(quantile, df) == pytest.approx(0.025, rel=1e-4)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_equal_methods_are_significant_in_5_percent_of_the_cases() -> None:
    rounds = 1500
    p = [compare(sums(*data(seed)), "a", "b").p for seed in range(rounds)]
    share = np.mean(np.array(p) < 0.05)
    assert abs(share - 0.05) < 3 * math.sqrt(0.05 * 0.95 / rounds), share
    assert abs(np.mean(p) - 0.5) < 3 / math.sqrt(12 * rounds)
    # As if instances were independent, which a user's are not, equal methods differ in every third case.
    alone = [compare(sums(values, np.arange(len(user))), "a", "b").p for values, user in map(data, range(200))]
    assert np.mean(np.array(alone) < 0.05) > 0.2


def test_an_effect_is_found() -> None:
    p = [compare(sums(*data(seed, effect=0.6)), "a", "b").p for seed in range(100)]
    assert np.mean(np.array(p) < 0.05) > 0.8
