"""Evaluation instances: a history, the item that came next, and what must not be ranked.

Shapes: n users, I instances, L longest history, A attributes.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch

from ppr_dist.batch import Batch
from ppr_dist.data.counter_random import integers
from ppr_dist.data.padding import group_by_length, ragged_arange
from ppr_dist.data.users import Int64, Users
from ppr_dist.errors import UserError

Task = Literal["few-shot", "zero-shot", "joint", "next-item", "validation"]
_SAMPLED = 21  # what a draw is for, as a word of its key


@dataclasses.dataclass(frozen=True)
class Instances:
    """Which prefixes of which users are asked about."""

    users: Users
    owner: Int64
    """Row of the user in ``users``, [I]."""
    prefix: Int64
    """Clicks before the target, [I]."""

    @property
    def targets(self) -> Int64:
        """Item index asked for, [I]."""
        return self.users.items[self.users.offsets[self.owner] + self.prefix]


def instances_of(users: Users, task: Task) -> Instances:
    """Cut users into a task's instances (PPR §5.1.3 for the cold tasks).

    zero-shot: the first click, from the profile alone; few-shot: each later click; joint: both; next-item: the
    last click of users with at least two; validation: the one before.
    """
    clicks = users.lengths
    if task in ("next-item", "validation"):
        back = 1 if task == "next-item" else 2
        owner = np.flatnonzero(clicks > back)
        return Instances(users, owner, clicks[owner] - back)
    first = {"zero-shot": 0, "few-shot": 1, "joint": 0}[task]
    last = np.minimum(clicks, 1) if task == "zero-shot" else clicks
    counts = np.maximum(last - first, 0)
    owner, nth = ragged_arange(counts)
    return Instances(users, owner, nth + first)


def history_batch(instances: Instances, max_length: int) -> Batch:
    """A batch whose user vectors are those of the instances, in order, each from its own last position."""
    users = instances.users
    lengths = np.minimum(instances.prefix, max_length)
    by_length = np.argsort(-lengths, kind="stable")
    owner, lengths = instances.owner[by_length], lengths[by_length]
    stops = users.offsets[owner] + instances.prefix[by_length]
    row, position = ragged_arange(lengths)
    ids, rows = np.unique(users.items[(stops - lengths)[row] + position], return_inverse=True)
    back = np.argsort(by_length)
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        users=torch.from_numpy(users.index[owner]),
        item_ids=torch.from_numpy(ids if len(ids) else np.zeros(1, np.int64)),
        history=torch.from_numpy(rows.astype(np.int64, copy=False)),
        lengths=torch.from_numpy(lengths),
        groups=group_by_length(lengths),
        prefix=torch.from_numpy(lengths[back]),
        owner=torch.from_numpy(back),
        targets=nothing,
        profile=torch.from_numpy(users.attributes[:, owner]),
        total_targets=0.0,
    )


def excluded(instances: Instances, *, with_target: bool = True) -> tuple[Int64, Int64]:
    """Distinct (instance, item) pairs that a full ranking leaves out: what the user had seen, and the target."""
    counts = instances.prefix + with_target  # the target stands right behind the prefix
    row, within = ragged_arange(counts)
    item = instances.users.items[instances.users.offsets[instances.owner][row] + within]
    order = np.lexsort((item, row))
    row, item = row[order], item[order]
    first = np.ones(len(row), bool)
    first[1:] = (row[1:] != row[:-1]) | (item[1:] != item[:-1])
    return row[first], item[first]


def sampled_negatives(instances: Instances, items: int, count: int, seed: int) -> Int64:
    """``count`` distinct items per instance, uniform over those its user never clicked, int64 [I, count].

    A function of (seed, user, prefix): the same on any number of ranks. Raises :class:`UserError` where the
    catalogue is too small.
    """
    users, owner = instances.users, instances.owner
    most = int(users.lengths.max(initial=0))
    if items < 2 * count + most:
        raise UserError(f"{count} sampled negatives need a catalogue of {2 * count + most} items; it has {items}")
    clicked = np.repeat(np.arange(len(users)), users.lengths) * items + users.items
    clicked = np.unique(clicked)
    who, when, column = users.index[owner][:, None], instances.prefix[:, None], np.arange(count)
    drawn = integers(items, seed, _SAMPLED, who, when, column, 0)
    attempt = 0
    while len(owner):
        key = owner[:, None] * items + drawn
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
