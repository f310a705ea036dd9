"""The collator against loops over users, on one rank and on several."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist.batch import Batch, History
from ppr_dist.data.stream import padding
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.data.stream.users import Users
from tests.settings import collator, objectives
from tests.shards import clicks_of, random_users, rank_part, select, times_of, write_data

ITEMS, COUNT = 97, 40
USERS = random_users(COUNT, ITEMS, longest=14, first_index=500, times=True)
COUNTS = np.bincount(USERS.items, minlength=ITEMS)
PROBABILITY = (COUNTS / COUNTS.sum()).astype(np.float32)
ROW = {int(index): row for row, index in enumerate(USERS.index)}
SOFTMAX = {"softmax": {"uniform_negatives": 13, "in_batch_per_user": 2}}


@pytest.fixture(autouse=True)
def several_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "BUCKET_TOKENS", 30)


def collate(
    users: Users = USERS,
    rank: int = 0,
    world_size: int = 1,
    epoch: int = 0,
    step: int = 0,
    chosen: dict[str, dict[str, Any]] = SOFTMAX,
    **settings: Any,
) -> Batch:
    """The batch of a rank; ``chosen``: objectives and their settings."""
    given: dict[str, Any] = {"items": ITEMS, "probability": PROBABILITY, "rank": rank, "world_size": world_size}
    given |= settings
    made = collator(objectives(given["items"], **chosen), **given)
    return made(rank_part(users, rank, world_size), epoch=epoch, step=step, global_users=len(users))


def over_ranks(world_size: int, **settings: Any) -> list[Batch]:
    return [collate(rank=rank, world_size=world_size, **settings) for rank in range(world_size)]


def by_user(batch: Batch, values: torch.Tensor, lengths: torch.Tensor) -> dict[int, list[int]]:
    """``values``, user after user, of each user."""
    parts = values.split(lengths.tolist())
    return {u: part.tolist() for u, part in zip(batch.users.tolist(), parts, strict=True)}


def histories(batch: Batch, history: History | None = None) -> dict[int, list[int]]:
    """Items of each user's history."""
    history = history or batch.history
    return by_user(batch, batch.item_ids[history.items], history.lengths)


def targets(batch: Batch) -> dict[int, list[tuple[int, int]]]:
    """(Context length, item) of each user's targets."""
    found: dict[int, list[tuple[int, int]]] = {user: [] for user in batch.users.tolist()}
    users, items = batch.users[batch.user_rows], batch.item_ids[batch.targets]
    for user, length, item in zip(users.tolist(), batch.context_lengths.tolist(), items.tolist(), strict=True):
        found[user].append((length, item))
    return found


def test_the_first_click_alone() -> None:
    for batch in over_ranks(2, hold_out=0, max_length=50, first_target=0, last_target=0):
        assert not batch.history.lengths.any()
        for user, asked in targets(batch).items():
            assert asked == [(0, click) for click in clicks_of(USERS, ROW[user])[:1]]


@pytest.mark.parametrize("hold_out", [0, 2])
@pytest.mark.parametrize("max_length", [1, 5, 50])
@pytest.mark.parametrize("first_target", [0, 1])
@pytest.mark.parametrize("world_size", [1, 3])
def test_histories_and_targets(hold_out: int, max_length: int, first_target: int, world_size: int) -> None:
    seen = []
    batches = over_ranks(world_size, hold_out=hold_out, max_length=max_length, first_target=first_target)
    for batch in batches:
        kept, asked = histories(batch), targets(batch)
        assert batch.history.times is not None
        times = by_user(batch, batch.history.times, batch.history.lengths)
        for user in batch.users.tolist():
            clicks = clicks_of(USERS, ROW[user])
            trained_on = clicks[: max(0, len(clicks) - hold_out)]
            clicks = trained_on[-(max_length + 1) :]
            # The oldest click of a cut history was not the user's first: nothing before it predicts it.
            first = max(first_target, len(trained_on) > len(clicks))
            # The last click is only a target: max_length inputs before it.
            assert kept[user] == clicks[:-1]
            clicked_at = times_of(USERS, ROW[user])
            assert times[user] == clicked_at[max(0, len(trained_on) - len(clicks)) : max(0, len(trained_on) - 1)]
            assert asked[user] == [(t, clicks[t]) for t in range(first, len(clicks))]
            seen.append(user)
        assert batch.profile.tolist() == [[int(a[ROW[u]]) for u in batch.users.tolist()] for a in USERS.attributes]
        # Each value of an attribute is asked for once, and attributes do not share rows.
        of_attribute = batch.profile_values.split(batch.profile_counts)
        assert [values.tolist() for values in of_attribute] == [sorted(set(row)) for row in batch.profile.tolist()]
        assert (batch.history.lengths.diff() <= 0).all()
        assert len(batch.user_rows) == len(batch.context_lengths) == len(batch.targets)
        assert len(batch.item_ids.unique()) == len(batch.item_ids)
        integers = (
            batch.users,
            batch.item_ids,
            batch.history.items,
            batch.context_lengths,
            batch.targets,
            batch.profile,
        )
        assert {t.dtype for t in integers} == {torch.int64}
    assert sorted(seen) == USERS.index.tolist()
    assert len(batches[0].history.buckets) > 1 or max_length == 1


@pytest.mark.parametrize("max_length", [5, 50])
@pytest.mark.parametrize("last_clicks", [1, 3])
def test_the_last_clicks_alone_are_predicted_and_all_are_seen(max_length: int, last_clicks: int) -> None:
    options = {"hold_out": 0, "max_length": max_length, "first_target": 1}
    for every, some in zip(over_ranks(2, **options), over_ranks(2, **options, last_clicks=last_clicks), strict=True):
        assert histories(some) == histories(every)
        assert targets(some) == {user: asked[-last_clicks:] for user, asked in targets(every).items()}


def pairs(batch: Batch) -> list[tuple[int, float]]:
    """(id, log q) of the candidates that are not padding."""
    drawn = batch.drawn["softmax"]
    ids, log_q = batch.item_ids[drawn["candidates"]].tolist(), drawn["log_q"].tolist()
    return [(i, q) for i, q in zip(ids, log_q, strict=True) if q != float("inf")]


def candidates(batch: Batch) -> int:
    """How many candidates a rank gives, padding included."""
    return len(batch.drawn["softmax"]["candidates"])


@pytest.mark.parametrize(("uniform", "per_user"), [(13, 2), (0, 3), (13, 0), (1, 1)])
@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_together_draw_the_candidates_of_one_rank(uniform: int, per_user: int, world_size: int) -> None:
    softmax = {"uniform_negatives": uniform, "in_batch_per_user": per_user}
    settings: dict[str, Any] = {"chosen": {"softmax": softmax}, "hold_out": 2}
    many = over_ranks(world_size, **settings)
    assert sorted(pair for batch in many for pair in pairs(batch)) == sorted(pairs(collate(**settings)))
    # Gathering needs one size on every rank, whoever has fewer users.
    assert len({candidates(batch) for batch in many}) == 1


@pytest.mark.parametrize("most", [1, 3, 7, 39])
@pytest.mark.parametrize("world_size", [2, 3, 7, 40])
def test_a_cap_on_lending_users_draws_the_same_candidates_on_any_number_of_ranks(most: int, world_size: int) -> None:
    settings = {"chosen": {"softmax": {"uniform_negatives": 5, "in_batch_per_user": 2, "in_batch_users": most}}}
    one, many = collate(**settings), over_ranks(world_size, **settings)
    assert 5 < len(pairs(one)) <= 5 + 2 * most  # some who are chosen have no target to lend
    assert sorted(pair for batch in many for pair in pairs(batch)) == sorted(pairs(one))
    sizes = {candidates(batch) for batch in many}
    assert len(sizes) == 1
    assert sizes.pop() <= 2 * (most * -(-COUNT // world_size) // COUNT + 2) + -(-5 // world_size)


def test_every_user_lends_as_often_under_a_cap() -> None:
    most, steps = 10, 2_000
    # Each user clicks on one item alone, so that a candidate names its lender.
    users = dataclasses.replace(
        USERS, items=np.repeat(np.arange(COUNT), 3), offsets=3 * np.arange(COUNT + 1), times=None
    )
    chosen = {"softmax": {"uniform_negatives": 0, "in_batch_per_user": 1, "in_batch_users": most}}
    drawn = [item for step in range(steps) for item, _ in pairs(collate(users, step=step, chosen=chosen))]
    share = np.bincount(drawn, minlength=COUNT) / steps
    expected = most / COUNT  # what log q says, p_j being 1 / users here
    assert np.abs(share - expected).max() < 4 * np.sqrt(expected * (1 - expected) / steps)


def test_candidates_are_uniform_draws_and_targets_of_each_user() -> None:
    batch = collate(hold_out=2, first_target=1)
    drawn = pairs(batch)
    with_targets = [row for row in range(COUNT) if len(clicks_of(USERS, row)) > 3]
    assert len(drawn) == 13 + 2 * len(with_targets)
    in_batch = [item for item, _ in drawn[:-13]]
    asked = targets(batch)
    users = [user for user in batch.users.tolist() if asked[user]]
    for i, user in enumerate(users):
        assert set(in_batch[2 * i : 2 * i + 2]) <= {item for _, item in asked[user]}
    # Another step draws other uniform items, another epoch other targets as well.
    assert [i for i, _ in pairs(collate(hold_out=2, step=1))][:-13] == in_batch
    assert [i for i, _ in pairs(collate(hold_out=2, step=1))][-13:] != [i for i, _ in drawn[-13:]]
    assert [i for i, _ in pairs(collate(hold_out=2, epoch=1))][:-13] != in_batch


@pytest.mark.parametrize("world_size", [1, 3])
def test_log_q_is_the_log_of_the_expected_count(world_size: int) -> None:
    for batch in over_ranks(world_size):
        for item, log_q in pairs(batch):
            assert log_q == pytest.approx(np.log(13 / ITEMS + 2 * COUNT * COUNTS[item] / COUNTS.sum()), abs=1e-6)


def test_counts_over_many_steps_are_those_that_log_q_states() -> None:
    # One click a user is one target a user: there the mixture's formula is exact.
    rng = np.random.default_rng(0)
    items = rng.choice(10, 2000, p=np.arange(1, 11) / 55)
    share = np.bincount(items, minlength=10) / 2000
    total = np.zeros(10)
    for step in range(50):
        mine = items[step * 40 : (step + 1) * 40]
        users = Users(np.arange(step * 40, step * 40 + 40), mine, np.arange(41), np.zeros((0, 40), np.int64))
        batch = collate(users, step=step, items=10, probability=share.astype(np.float32), first_target=0)
        stated = {item: np.exp(log_q) for item, log_q in pairs(batch)}
        total += np.bincount([item for item, _ in pairs(batch)], minlength=10)
    for item, expected in stated.items():
        # 4 standard deviations of the 650 uniform draws; the in-batch ones are exact over a whole epoch.
        assert abs(total[item] - 50 * expected) < 4 * np.sqrt(650 * 0.1 * 0.9)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("objective", ["bpr", "bce"])
def test_own_negatives_belong_to_the_target_whatever_the_ranks(objective: str, world_size: int) -> None:
    settings = {"chosen": {objective: {"uniform_negatives": 3}}}

    def drawn(batches: list[Batch]) -> dict[tuple[int, int], list[int]]:
        found = {}
        for batch in batches:
            negatives = batch.drawn[objective]["negatives"]
            assert negatives.shape == (len(batch.targets), 3)
            for user_row, length, rows in zip(batch.user_rows, batch.context_lengths, negatives, strict=True):
                found[int(batch.users[user_row]), int(length)] = batch.item_ids[rows].tolist()
        return found

    one = drawn([collate(**settings)])
    assert drawn(over_ranks(world_size, **settings)) == one
    assert len({tuple(v) for v in one.values()}) > 0.9 * len(one)
    assert sum(one[key] == other for key, other in drawn([collate(epoch=1, **settings)]).items()) < 3


CONTRASTIVE = {**SOFTMAX, "contrastive": {"interaction_dropout": 0.2, "profile_dropout": 0.3}}


def dropped_view(batch: Batch) -> History:
    """The view of which interactions are dropped; the other one is the history, its profile dropped in part."""
    profile, interactions = batch.views["contrastive"]
    assert (profile.history, profile.profile_dropout) == (None, 0.3)
    assert interactions.history is not None
    assert interactions.profile_dropout == 0.0
    return interactions.history


def test_a_view_drops_a_share_but_never_the_last_click() -> None:
    users = random_users(400, ITEMS, shortest=2, longest=14, first_index=500, times=True)
    dropped = total = 0
    views = []
    for epoch in (0, 1):
        batch = collate(users, epoch=epoch, chosen=CONTRASTIVE)
        view = dropped_view(batch)
        assert [b.sequences for b in view.buckets] == [b.sequences for b in batch.history.buckets]
        assert sum(b.tokens for b in view.buckets) == len(view.items) < len(batch.history.items)
        whole, fewer = histories(batch), histories(batch, view)
        assert view.times is not None
        assert batch.history.times is not None
        when = by_user(batch, view.times, view.lengths)
        for user, times in by_user(batch, batch.history.times, batch.history.lengths).items():
            history = list(zip(whole[user], times, strict=True))
            rest = iter(history)
            kept = list(zip(fewer[user], when[user], strict=True))
            assert all(click in rest for click in kept)  # a subsequence, in order
            assert kept[-1:] == history[-1:]
            dropped += len(history) - len(kept)
            total += max(0, len(history) - 1)
        views.append(fewer)
    assert abs(dropped / total - 0.2) < 4 * np.sqrt(0.2 * 0.8 / total)
    assert views[0] != views[1]


def test_views_do_not_depend_on_the_ranks() -> None:
    def kept(batches: list[Batch]) -> dict[int, list[int]]:
        return {user: items for b in batches for user, items in histories(b, dropped_view(b)).items()}

    assert kept(over_ranks(3, chosen=CONTRASTIVE)) == kept([collate(chosen=CONTRASTIVE)])


def test_without_an_objective_that_wants_views_there_are_none() -> None:
    assert collate().views == {}


@pytest.mark.parametrize("objective", ["softmax", "full_softmax", "bpr", "bce"])
@pytest.mark.parametrize("longest", [0, 2])
def test_no_users_or_no_targets(objective: str, longest: int) -> None:
    for users in (select(USERS, []), random_users(5, ITEMS, longest=longest)):
        batch = collate(users, chosen={objective: {}, "contrastive": {}}, hold_out=2)
        assert len(batch.targets) == len(batch.user_rows) == len(batch.context_lengths) == 0
        both = [batch.history, *(view.history for view in batch.views["contrastive"] if view.history)]
        assert len(both) == 2
        for history in both:
            assert len(batch.users) == len(history.lengths) == sum(b.sequences for b in history.buckets) == len(users)
            assert len(history.buckets) >= 1
        assert len(batch.item_ids) >= 1


@pytest.mark.parametrize("longest", [0, 2])
def test_uniform_candidates_need_no_users(longest: int) -> None:
    for users in (select(USERS, []), random_users(5, ITEMS, longest=longest)):
        assert len(pairs(collate(users, chosen={"softmax": {"uniform_negatives": 3}}, hold_out=2))) == 3


def test_what_objectives_draw_is_looked_up_once_together_with_the_clicks() -> None:
    chosen: dict[str, dict[str, Any]] = {**SOFTMAX, "full_softmax": {}, "bce": {"uniform_negatives": 2}}
    batch = collate(chosen=chosen)
    assert sorted(batch.item_ids.tolist()) == list(range(ITEMS))
    assert batch.item_ids[batch.drawn["full_softmax"]["items"]].tolist() == list(range(ITEMS))
    # What one draws is what it draws alone.
    for name, settings in chosen.items():
        alone = collate(chosen={name: settings})
        for key, drawn in batch.drawn[name].items():
            if drawn.dtype == torch.int64:
                assert torch.equal(batch.item_ids[drawn], alone.item_ids[alone.drawn[name][key]])
            else:
                assert torch.equal(drawn, alone.drawn[name][key])


@pytest.mark.parametrize("max_length", [3, 50])
def test_the_time_of_each_target_is_there_where_the_model_may_see_it(max_length: int) -> None:
    assert collate(max_length=max_length).history.asked_at is None
    batch = collate(max_length=max_length, target_time=True, hold_out=2)
    assert batch.history.asked_at is not None
    asked_at = by_user(batch, batch.history.asked_at, batch.history.lengths)
    for user, times in asked_at.items():
        # A position is asked when the click behind it was, which is what it is to predict.
        trained_on = times_of(USERS, ROW[user])[: max(0, len(clicks_of(USERS, ROW[user])) - 2)][-(max_length + 1) :]
        assert times == trained_on[1:]


def test_ids_beyond_32_bits_survive_from_file_to_batch(tmp_path: Path) -> None:
    base, catalogue = 2**40 + 1, 2**41  # beyond 32 bits and, added to itself, beyond float32's integers
    users = dataclasses.replace(USERS, items=USERS.items + base, index=USERS.index + base)
    chosen = objectives(catalogue, softmax={"uniform_negatives": 50, "in_batch_per_user": 2})
    manifest = write_data(tmp_path / "d", {"pretrain": users}, items=catalogue, per_shard=11)
    stream = UserStream(tmp_path / "d", manifest, "pretrain", batch=COUNT, rank=0, world_size=1, shuffle_shards=2)
    kept: dict[int, list[int]] = {}
    for step, total, part in stream.batches(0, range(stream.steps)):
        # A table of that many probabilities would be terabytes; this one answers like it.
        batch = collator(chosen, catalogue, probability=_Everywhere())(part, epoch=0, step=step, global_users=total)
        kept |= histories(batch)
        drawn = batch.drawn["softmax"]
        uniform = batch.item_ids[drawn["candidates"]][drawn["log_q"] != torch.inf][-50:]
        assert uniform.max() > 2**40
        assert (uniform % 2 == 1).any()
    for row, index in enumerate(users.index.tolist()):
        assert kept[index] == clicks_of(users, row)[:-1]


class _Everywhere:
    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        return np.full(len(ids), 1e-12, np.float32)
