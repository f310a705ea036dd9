"""Evaluation instances against loops over users."""

from __future__ import annotations

import numpy as np
import pytest

from ppr_dist.data.stream import padding
from ppr_dist.data.stream.instances import (
    Instances,
    clicked_before,
    excluded,
    history_batch,
    sampled_negatives,
    unclicked,
)
from ppr_dist.data.stream.users import Users
from ppr_dist.tasks import TASKS
from ppr_dist.tasks.ranking import RankingTask
from tests.shards import clicks_of, random_users, rank_part, select, times_of

ITEMS = 400
USERS = random_users(30, ITEMS, longest=9, first_index=500, times=True)
NAMES = ("few-shot", "zero-shot", "joint", "next-item", "validation")


def instances_of(users: Users, name: str) -> Instances:
    task = TASKS[name]
    assert isinstance(task, RankingTask)
    return task.instances(users)


def by_hand(users: Users, task: str) -> list[tuple[int, list[int], int]]:
    """(row, history, target) of each instance."""
    found = []
    for row in range(len(users)):
        clicks = clicks_of(users, row)
        at = {
            "zero-shot": [0],
            "few-shot": range(1, len(clicks)),
            "joint": range(len(clicks)),
            "next-item": [len(clicks) - 1],
            "validation": [len(clicks) - 2],
        }[task]
        # Warm tasks need a history; any task needs a target.
        least = 1 if task in ("next-item", "validation") else 0
        found += [(row, clicks[:i], clicks[i]) for i in at if least <= i < len(clicks)]
    return found


@pytest.mark.parametrize("task", NAMES)
def test_instances_of_each_task(task: str) -> None:
    instances = instances_of(USERS, task)
    want = by_hand(USERS, task)
    assert want
    assert instances.user_rows.tolist() == [row for row, _, _ in want]
    assert instances.context_lengths.tolist() == [len(history) for _, history, _ in want]
    assert instances.targets.tolist() == [target for _, _, target in want]


@pytest.mark.parametrize("max_length", [3, 50])
@pytest.mark.parametrize("task", NAMES)
def test_history_batch(task: str, max_length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "BUCKET_TOKENS", 10)  # several buckets
    batch = history_batch(instances_of(USERS, task), max_length)
    assert batch.history.asked_at is None
    rows, times = (each.split(batch.history.lengths.tolist()) for each in (batch.history.items, batch.history.times))
    for i, (user, history, _) in enumerate(by_hand(USERS, task)):
        own = int(batch.user_rows[i])
        length = int(batch.history.lengths[own])
        assert batch.item_ids[rows[own]].tolist() == history[-max_length:]
        assert times[own].tolist() == times_of(USERS, user)[: len(history)][-max_length:]
        assert int(batch.context_lengths[i]) == length
        assert int(batch.users[own]) == USERS.index[user]
        assert batch.profile[:, own].tolist() == USERS.attributes[:, user].tolist()
    assert len(batch.item_ids.unique()) == len(batch.item_ids) >= 1


@pytest.mark.parametrize("max_length", [3, 50])
def test_the_time_of_the_target_is_there_where_the_model_may_see_it(max_length: int) -> None:
    batch = history_batch(instances_of(USERS, "joint"), max_length, target_time=True)
    assert batch.history.asked_at is not None
    asked_at = batch.history.asked_at.split(batch.history.lengths.tolist())
    for i, (user, history, _) in enumerate(by_hand(USERS, "joint")):
        # The last position is asked when the target was clicked.
        want = times_of(USERS, user)[1 : len(history) + 1]
        assert asked_at[int(batch.user_rows[i])].tolist() == want[-max_length:]


@pytest.mark.parametrize("with_target", [True, False])
@pytest.mark.parametrize("task", NAMES)
def test_excluded_is_what_was_seen_and_the_target(task: str, with_target: bool) -> None:
    few = random_users(40, 7, longest=9)  # 7 items: clicks repeat
    rows, items = excluded(instances_of(few, task), with_target=with_target)
    pairs = list(zip(rows.tolist(), items.tolist(), strict=True))
    want = {
        (i, item)
        for i, (_, history, target) in enumerate(by_hand(few, task))
        for item in [*history, *[target] * with_target]
    }
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == want


@pytest.mark.parametrize("task", NAMES)
def test_no_users_and_users_without_clicks(task: str) -> None:
    for users in (select(USERS, []), random_users(3, ITEMS, longest=0)):
        instances = instances_of(users, task)
        assert len(instances.user_rows) == 0
        batch = history_batch(instances, 5)
        assert len(batch.context_lengths) == 0
        assert len(batch.item_ids) == 1
        assert excluded(instances)[0].size == 0
        assert sampled_negatives(instances, ITEMS, 99, 0).shape == (0, 99)


def test_sampled_negatives_are_distinct_unclicked_and_do_not_depend_on_ranks() -> None:
    users = random_users(60, 250, longest=50, first_index=500)  # 99 + 99 + 50 < 250: draws collide often
    instances = instances_of(users, "joint")
    drawn = sampled_negatives(instances, 250, 99, seed=4)
    assert drawn.shape == (len(instances.user_rows), 99)
    for row, negatives in zip(instances.user_rows, drawn, strict=True):
        assert len(set(negatives.tolist())) == 99
        # Never clicked, also not later than the instance.
        assert not set(negatives.tolist()) & set(clicks_of(users, row))
        assert 0 <= negatives.min() <= negatives.max() < 250
    np.testing.assert_array_equal(sampled_negatives(instances, 250, 99, seed=4), drawn)
    parts = [sampled_negatives(instances_of(rank_part(users, r, 3), "joint"), 250, 99, seed=4) for r in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), drawn)
    assert (sampled_negatives(instances, 250, 99, seed=5) != drawn).mean() > 0.9


def test_sampled_negatives_of_the_joint_task_are_those_of_its_parts() -> None:
    joint, few = instances_of(USERS, "joint"), instances_of(USERS, "few-shot")
    all_drawn = sampled_negatives(joint, ITEMS, 99, seed=0)
    np.testing.assert_array_equal(all_drawn[joint.context_lengths > 0], sampled_negatives(few, ITEMS, 99, seed=0))


def test_sampled_negatives_are_uniform_over_the_unclicked() -> None:
    users = select(USERS, [int(np.argmax(USERS.lengths))])
    clicks = set(clicks_of(users, 0))
    instances = Instances(users, np.zeros(400, np.int64), np.arange(400))
    drawn = sampled_negatives(instances, ITEMS, 99, seed=0)
    counts = np.bincount(drawn.ravel(), minlength=ITEMS)
    free = np.array([item not in clicks for item in range(ITEMS)])
    assert counts[~free].sum() == 0
    # Each unclicked item comes with probability p in each of 400 rows: within 5 standard deviations of 400 p.
    p = 99 / free.sum()
    assert np.abs(counts[free] - 400 * p).max() < 5 * np.sqrt(400 * p * (1 - p))


def test_clicked_before_and_unclicked_count_as_a_loop_does() -> None:
    few = random_users(40, 7, longest=9)
    for task in NAMES:
        instances = instances_of(few, task)
        want = [(target in history, 7 - len(set(clicks_of(few, row)))) for row, history, target in by_hand(few, task)]
        assert list(zip(clicked_before(instances), unclicked(instances, 7), strict=True)) == want


@pytest.mark.parametrize("items", [120, 150, 1000])
def test_negatives_of_users_who_left_few_items_unclicked(items: int) -> None:
    # One clicked all but 99 or more, again and again (as a bot does), one nothing at all but the target.
    lists = [list(range(items - 99 - spare)) * 3 for spare in (0, 1, 20)] + [[5]]
    users = Users(
        index=np.arange(4) + 70,
        items=np.concatenate(lists),
        offsets=np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]),
        attributes=np.zeros((0, 4), np.int64),
    )
    instances = Instances(users, np.arange(4), users.lengths - 1)
    assert unclicked(instances, items).tolist() == [99, 100, 119, items - 1]
    drawn = sampled_negatives(instances, items, 99, seed=1)
    for clicks, negatives in zip(lists, drawn, strict=True):
        assert len(set(negatives.tolist())) == 99
        assert not set(negatives.tolist()) & set(clicks)
    one = sampled_negatives(
        Instances(select(users, [2]), np.array([0]), instances.context_lengths[2:3]), items, 99, seed=1
    )
    np.testing.assert_array_equal(one[0], drawn[2])


def test_negatives_drawn_from_a_list_are_uniform() -> None:
    # 150 of 250 items clicked: one of the other 100 is left out each time.
    users = Users(np.array([3]), np.arange(150), np.array([0, 150]), np.zeros((0, 1), np.int64))
    drawn = sampled_negatives(Instances(users, np.zeros(2000, np.int64), np.arange(2000)), 250, 99, seed=0)
    left_out = np.array([np.setdiff1d(np.arange(150, 250), row)[0] for row in drawn])
    counts = np.bincount(left_out - 150, minlength=100)
    assert np.abs(counts - 20).max() < 5 * np.sqrt(20 * 0.99)


def test_ids_beyond_32_bits_survive() -> None:
    base = 2**40 + 1
    users = Users(index=USERS.index, items=USERS.items + base, offsets=USERS.offsets, attributes=USERS.attributes)
    instances = instances_of(users, "few-shot")
    batch = history_batch(instances, 50)
    assert batch.item_ids.numpy().min() > 2**40
    assert set(batch.item_ids.tolist()) <= set(users.items.tolist())
    assert set(excluded(instances)[1].tolist()) <= set(users.items.tolist())
    drawn = sampled_negatives(instances, 2**41, 99, 0)
    assert drawn.dtype == np.int64
    assert drawn.max() > 2**40
