"""Paired tests against direct formulas, tables of Student's t, and data without an effect."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from benchmarks.statistics import compare, corrected_t, from_json, holm, sums, t_quantile, t_tail, variance_components


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
    assert found.user_error == pytest.approx(math.sqrt(variance))
    seeds = [values[name].mean(axis=1).var(ddof=1) / 3 for name in "ab"]
    assert found.error == pytest.approx(math.sqrt(variance + sum(seeds)))
    freedom = (variance + sum(seeds)) ** 2 / (variance**2 / 59 + sum(each**2 / 2 for each in seeds))
    assert found.p == pytest.approx(2 * t_tail(abs(found.difference) / found.error, freedom))
    assert found.gain == pytest.approx(a.mean() / b.mean() - 1)
    assert found.effect == pytest.approx(found.difference / found.user_error / math.sqrt(60))
    # The jackknife over users is another way to the same interval, where there are no seeds.
    found = compare(sums({name: each.mean(axis=0)[None] for name, each in values.items()}, user), "a", "b")
    assert found.error == found.user_error
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
    assert (found.difference, found.user_error, found.p) == (0, 0, pytest.approx(1))
    untuned = dict.fromkeys("ab", values["a"][:1])
    found = compare(sums(untuned, user), "a", "b")
    assert (found.difference, found.error, found.p) == (0, 0, pytest.approx(1))


@pytest.mark.parametrize(
    ("df", "quantile"), [(1, 12.7062), (2, 4.30265), (10, 2.22814), (30, 2.04227), (120, 1.97993), (1207, 1.96194)]
)
def test_student_t(df: int, quantile: float) -> None:
    assert t_quantile(0.975, df) == pytest.approx(quantile, abs=1e-4)
    assert t_quantile(0.975, df + 0.5) < t_quantile(0.975, df)
    assert t_tail(0, df) == pytest.approx(0.5)
    assert t_tail(quantile, df) == pytest.approx(0.025, rel=1e-4)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_equal_methods_are_significant_in_5_percent_of_the_cases() -> None:
    rounds = 1500
    one_seed = [({n: v[:1] for n, v in values.items()}, user) for values, user in map(data, range(rounds))]
    p = [compare(sums(*each), "a", "b").p for each in one_seed]
    share = np.mean(np.array(p) < 0.05)
    assert abs(share - 0.05) < 3 * math.sqrt(0.05 * 0.95 / rounds), share
    assert abs(np.mean(p) - 0.5) < 3 / math.sqrt(12 * rounds)
    # As if instances were independent, which a user's are not, equal methods differ in every third case.
    alone = [compare(sums(values, np.arange(len(user))), "a", "b").p for values, user in one_seed[:200]]
    assert np.mean(np.array(alone) < 0.05) > 0.2


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("common", [0.0, 2.0])
def test_one_method_tuned_twice_is_significant_in_5_percent_of_the_cases_at_most(seeds: int, common: float) -> None:
    """A seed moves all users by ``common`` times what the users' own noise makes of the mean."""
    rounds, users = 250, 50
    draw = np.random.default_rng(seeds)
    p, by_users_alone = [], []
    for _ in range(rounds):
        values = {
            name: 1 + draw.normal(size=(seeds, users)) + common * draw.normal(size=(seeds, 1)) / math.sqrt(users)
            for name in "ab"
        }
        found = compare(sums(values, np.arange(users)), "a", "b")
        p.append(found.p)
        by_users_alone.append(2 * t_tail(abs(found.difference) / found.user_error, users - 1))
    assert np.mean(np.array(p) < 0.05) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / rounds)
    if common:
        assert np.mean(np.array(by_users_alone) < 0.05) > 0.1, "what the seeds' share is for"


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """Its definition: the largest of Bonferroni's p over all sets of hypotheses that hold the one."""
    for seed in range(20):
        p = np.random.default_rng(seed).beta(0.3, 1, 6).tolist()
        sets = [[i for i in range(6) if which >> i & 1] for which in range(1, 64)]
        closed = [max(min(1.0, len(of) * min(p[j] for j in of)) for of in sets if i in of) for i in range(6)]
        assert holm(p) == pytest.approx(closed)


def test_components_of_the_variance() -> None:
    draw = np.random.default_rng(5)
    found = [variance_components(0.7 * draw.normal(size=(3, 1)) + 0.4 * draw.normal(size=(3, 2))) for _ in range(2_000)]
    between, within = np.mean(found, axis=0)
    assert within == pytest.approx(0.16, rel=0.05)
    assert between == pytest.approx(0.49, rel=0.1)
    values = np.array([[1.0, 3.0], [5.0, 7.0]])  # means 2 and 6: variance 8, of which 2 / 2 are the seeds'
    assert variance_components(values) == (7.0, 2.0)
    assert variance_components(np.array([[1.0, 3.0], [1.0, 3.0]])) == (0.0, 2.0)
    assert math.isnan(variance_components(values[:1])[0])


def test_an_effect_is_found() -> None:
    p = [compare(sums(*data(seed, effect=0.6)), "a", "b").p for seed in range(100)]
    assert np.mean(np.array(p) < 0.05) > 0.8


def test_folds_that_share_what_they_are_trained_on() -> None:
    differences = np.array([0.01, 0.03, 0.02, 0.05, -0.01])
    mean, reach, p = corrected_t(differences, 5)
    error = differences.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    assert (mean, reach) == pytest.approx((0.02, 2.7764451 * error))
    assert 2 * t_tail(mean / error, 4) == pytest.approx(p)
    assert corrected_t(np.zeros(5), 5) == (0.0, 0.0, 1.0)
    # Means over trainings that share three quarters of their users: chance is found in 5 % of the cases at most.
    draw = np.random.default_rng(0)
    blocks = draw.normal(size=(4_000, 5))
    shared = (blocks.sum(1, keepdims=True) - blocks) / 4 + draw.normal(size=(4_000, 5))
    assert np.mean([corrected_t(each, 5)[2] < 0.05 for each in shared]) < 0.05
