"""Evaluation instances: a history, the item that came next, and what must not be ranked.

Shapes: n users, I instances, L longest history, A attributes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from ppr_dist.arrays import Int64Array
from ppr_dist.batch import Batch, History, distinct_values
from ppr_dist.data.counter_random import bits, integers
from ppr_dist.data.stream.padding import bucket_by_length, ragged_arange
from ppr_dist.data.stream.users import Users, batch_labels

_SAMPLED = 21  # what a draw is for, as a word of its key


@dataclasses.dataclass(frozen=True)
class Instances:
    """After which contexts of which users is asked."""

    users: Users
    user_rows: Int64Array
    """Row of the user in ``users``, [I]."""
    context_lengths: Int64Array
    """Clicks before the target, [I]."""

    @property
    def targets(self) -> Int64Array:
        """Item index asked for, [I]."""
        return self.users.items[self.users.offsets[self.user_rows] + self.context_lengths]

    def select(self, which: slice | npt.NDArray[np.bool_]) -> Instances:
        """Some of the instances, in the same order."""
        return Instances(self.users, self.user_rows[which], self.context_lengths[which])


def history_batch(instances: Instances, max_length: int, *, target_time: bool = False) -> Batch:
    """A batch whose user vectors are those of the instances, in order, each from its own last position.

    ``target_time``: it says when the click after each was, so every instance must have one.
    """
    users = instances.users
    lengths = np.minimum(instances.context_lengths, max_length)
    by_length = np.argsort(-lengths, kind="stable")
    user_rows, lengths = instances.user_rows[by_length], lengths[by_length]
    stops = users.offsets[user_rows] + instances.context_lengths[by_length]
    row, position = ragged_arange(lengths)
    kept = (stops - lengths)[row] + position
    ids, rows = np.unique(users.items[kept], return_inverse=True)
    back = np.argsort(by_length)
    return Batch(
        users=torch.from_numpy(users.index[user_rows]),
        item_ids=torch.from_numpy(ids if len(ids) else np.zeros(1, np.int64)),
        history=History(
            items=torch.from_numpy(rows.astype(np.int64, copy=False)),
            lengths=torch.from_numpy(lengths),
            buckets=bucket_by_length(lengths),
            times=None if users.times is None else torch.from_numpy(users.times[kept]),
            asked_at=torch.from_numpy(users.times[kept + 1]) if users.times is not None and target_time else None,
        ),
        user_rows=torch.from_numpy(back),
        context_lengths=torch.from_numpy(lengths[back]),
        targets=torch.zeros(0, dtype=torch.int64),
        **distinct_values(users.attributes[:, user_rows]),
        labels=batch_labels({name: labels.take(user_rows) for name, labels in users.labels.items()}),
        user_vectors=None if users.vectors is None else torch.from_numpy(users.vectors[user_rows]),
    )


def excluded(instances: Instances, *, with_target: bool = True) -> tuple[Int64Array, Int64Array]:
    """Distinct (instance, item) pairs that a full ranking leaves out: what the user had seen, and the target."""
    counts = instances.context_lengths + with_target  # the target stands right behind the context
    row, within = ragged_arange(counts)
    item = instances.users.items[instances.users.offsets[instances.user_rows][row] + within]
    order = np.lexsort((item, row))
    row, item = row[order], item[order]
    first = np.ones(len(row), bool)
    first[1:] = (row[1:] != row[:-1]) | (item[1:] != item[:-1])
    return row[first], item[first]


def clicked_before(instances: Instances) -> npt.NDArray[np.bool_]:
    """Whether each instance's target is among the clicks before it, [I]."""
    users = instances.users
    user = np.repeat(np.arange(len(users)), users.lengths)
    order = np.lexsort((users.items, user))  # stable: equal clicks stay oldest first
    again = np.zeros(len(order), bool)
    again[order[1:]] = (np.diff(user[order]) == 0) & (np.diff(users.items[order]) == 0)
    found: npt.NDArray[np.bool_] = again[users.offsets[instances.user_rows] + instances.context_lengths]
    return found


def unclicked(instances: Instances, items: int) -> Int64Array:
    """How many of the ``items`` each instance's user never clicked, [I]."""
    users = instances.users
    left: Int64Array = items - np.bincount(_clicked(users, items) // items, minlength=len(users))[instances.user_rows]
    return left


def _clicked(users: Users, items: int) -> Int64Array:
    """Distinct (user, item) pairs as user row · items + item, ascending."""
    return np.unique(np.repeat(np.arange(len(users)), users.lengths) * items + users.items)


def sampled_negatives(instances: Instances, items: int, count: int, seed: int) -> Int64Array:
    """``count`` distinct items per instance, uniform over those its user never clicked, int64 [I, count].

    A function of (seed, user, context length): the same on any number of ranks. Every user must leave ``count`` items
    unclicked (:func:`unclicked`).
    """
    users, user_rows = instances.users, instances.user_rows
    clicked, left = _clicked(users, items), unclicked(instances, items)
    found = np.zeros((len(user_rows), count), np.int64)
    # Drawing again until it fits ends soon where at least half of the items fit; else they are drawn from a list.
    many = left >= max(2 * count, items / 2)
    found[many] = _draw_again(instances.select(many), clicked, items, count, seed)
    for row in np.flatnonzero(~many):
        user = user_rows[row]
        low, high = np.searchsorted(clicked, [user * items, (user + 1) * items])
        free = np.setdiff1d(np.arange(items), clicked[low:high] - user * items, assume_unique=True)
        key = bits(seed, _SAMPLED, users.index[user], instances.context_lengths[row], free)
        found[row] = free[np.argsort(key, kind="stable")[:count]]
    return found


def _draw_again(instances: Instances, clicked: Int64Array, items: int, count: int, seed: int) -> Int64Array:
    """:func:`sampled_negatives` by drawing from all items until none was clicked or drawn before."""
    users, user_rows = instances.users, instances.user_rows
    who, when, column = users.index[user_rows][:, None], instances.context_lengths[:, None], np.arange(count)
    drawn = integers(items, seed, _SAMPLED, who, when, column, 0)
    attempt = 0
    while len(user_rows):
        key = user_rows[:, None] * items + drawn
        found = np.searchsorted(clicked, key).clip(max=max(len(clicked) - 1, 0))
        bad = clicked[found] == key if len(clicked) else np.zeros(key.shape, bool)
        order = np.argsort(drawn, axis=1, kind="stable")
        ordered = np.take_along_axis(drawn, order, axis=1)
        repeats = np.zeros(drawn.shape, bool)
        repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        np.put_along_axis(bad, order, np.take_along_axis(bad, order, axis=1) | repeats, axis=1)
        if not bad.any():
            break
        attempt += 1
        again = integers(items, seed, _SAMPLED, who, when, column, attempt)
        drawn = np.where(bad, again, drawn)
    return drawn
