"""Users → Batch: cut histories and targets, let objectives draw, deduplicate ids. Numpy, on the host.

Every random draw is a function of (seed, epoch, user or step), so W ranks draw together what one rank draws.
Shapes as in :mod:`ppr_dist.batch`; E clicks of the users, targets included.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from ppr_dist.arrays import Int64Array
from ppr_dist.batch import Batch, History, View, distinct_values
from ppr_dist.checkpoint.certificate import hash_of
from ppr_dist.data.counter_random import bits
from ppr_dist.data.stream.cloze import Cloze
from ppr_dist.data.stream.item_shares import ItemShares, MixedShares
from ppr_dist.data.stream.padding import bucket_by_length, ragged_arange
from ppr_dist.data.stream.step_users import Drawn, DrawnView, StepUsers
from ppr_dist.data.stream.users import Users, batch_labels

_DROPOUT = 14  # what a draw is for, as a word of its key; candidates.py has 14 too, in keys of one word more


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collator:
    """Makes batches of a split for one rank."""

    objectives: dict[str, Any]
    """By name; each draws what it wants to see (:meth:`ppr_dist.objectives.base.Objective.draw`)."""
    items: int
    """Size of the catalogue."""
    probability: npt.NDArray[np.float32] | ItemShares | MixedShares
    """Share of each item among the split's training clicks, [items]; the in-batch proposal of logQ. Of whole histories,
    where targets are the last ``max_length`` of each: an item clicked early in long ones counts for a little more."""
    max_length: int
    hold_out: int
    """Last interactions of each user kept out of training (2 of warm users: validation and test target)."""
    first_target: int
    """0 where the first interaction is a target too (the prompt or profile alone predicts it), else 1."""
    seed: int
    rank: int
    world_size: int
    shown: MixedShares | None = None
    """As in :class:`StepUsers`."""
    last_target: int | None = None
    """Clicks of a user before the last that is a target; None: all are."""
    last_clicks: int | None = None
    """How many of a user's clicks are targets, the last ones; None: all from the first target on."""
    target_time: bool = False
    """Whether the model sees when each target was clicked."""
    cloze: Cloze | None = None
    """Which clicks are masked, for a model that sees all of a sequence: these are the targets. None: every click is the
    target of those before it."""
    held_out_below: int | None = None
    """Users of this index or above are cold: nothing of theirs is held out. None: there are none such."""
    bucket_tokens: int | None = None
    """Tokens a padded bucket holds before a shorter history opens the next; None: what suits a CPU."""

    def __call__(self, users: Users, *, epoch: int, step: int, global_users: int) -> Batch:
        cut, times, is_target = self._cut(users, epoch, step, global_users)
        drawn = {name: objective.draw(cut) for name, objective in self.objectives.items()}
        is_history = np.ones(len(cut.clicks), np.bool_)
        if self.cloze is None:
            is_history[np.cumsum(cut.counts)[cut.counts > 0] - 1] = False  # all but each user's last click
        item_ids, clicks, drawn_rows = _deduplicate(cut.clicks, drawn)
        history = History(
            items=torch.from_numpy(clicks[is_history]),
            lengths=torch.from_numpy(cut.lengths),
            buckets=cut.buckets,
            times=None if times is None else torch.from_numpy(times[is_history]),
            asked_at=torch.from_numpy(times[_after(is_history)]) if times is not None and self.target_time else None,
            masked=None if self.cloze is None else torch.from_numpy(is_target),
        )
        return Batch(
            users=torch.from_numpy(cut.index),
            item_ids=torch.from_numpy(item_ids),
            history=history,
            user_rows=torch.from_numpy(cut.user_rows),
            context_lengths=torch.from_numpy(cut.context_lengths),
            targets=torch.from_numpy(clicks[is_target]),
            **distinct_values(cut.attributes),
            labels=batch_labels(cut.labels),
            user_vectors=None if cut.vectors is None else torch.from_numpy(cut.vectors),
            keys=torch.from_numpy(bits(self.seed, _DROPOUT, epoch, cut.index).view(np.int64)),
            users_hash=hash_of(cut.index),
            max_users_per_rank=-(-global_users // self.world_size),
            asked_items=len(cut.clicks) + sum(ids.size for found in drawn.values() for ids in found.item_ids.values()),
            label_ids={n: torch.from_numpy(ids) for found in drawn.values() for n, ids in found.label_ids.items()},
            drawn={name: drawn_rows[name] | _tensors(found) for name, found in drawn.items()},
            views={
                n: tuple(_view(history, *view) for view in found.views) for n, found in drawn.items() if found.views
            },
        )

    def _cut(
        self, users: Users, epoch: int, step: int, global_users: int
    ) -> tuple[StepUsers, Int64Array | None, npt.NDArray[np.bool_]]:
        """The clicks that are trained on, users in descending order of how many they have; their times; which of them
        are targets.
        """
        starts, stops = users.offsets[:-1], users.offsets[1:]
        warm = True if self.held_out_below is None else users.index < self.held_out_below
        stops = stops - np.where(warm, self.hold_out, 0)
        if self.last_target is not None:
            stops = np.minimum(stops, starts + self.last_target + 1)
        whole = starts >= stops - (self.max_length + 1)
        starts = np.maximum(starts, stops - (self.max_length + 1))
        counts = stops - starts  # of each user: inputs and the last target
        counts = np.where(counts > self.first_target, counts, 0)  # fewer hold no target, so none is looked up
        place = np.argsort(-counts, kind="stable")
        starts, counts = starts[place], counts[place]
        # Before the oldest click kept of a cut history there were others: the profile alone does not predict it.
        first_target = np.where(whole[place], self.first_target, 1)
        if self.last_clicks is not None:
            first_target = np.maximum(first_target, counts - self.last_clicks)
        row, position = ragged_arange(counts)
        kept = starts[row] + position
        is_target, context, lengths = position >= first_target[row], position, np.maximum(counts - 1, 0)
        if self.cloze is not None:
            is_target = self.cloze.masked(counts, self.seed, epoch, users.index[place])
            context, lengths = position + 1, counts
        cut = StepUsers(
            index=users.index[place],
            attributes=users.attributes[:, place],
            clicks=users.items[kept],
            counts=counts,
            first_target=first_target,
            user_rows=row[is_target],
            context_lengths=context[is_target],
            buckets=bucket_by_length(lengths, self.bucket_tokens),
            lengths=lengths,
            labels={name: labels.take(place) for name, labels in users.labels.items()},
            place=place,
            epoch=epoch,
            step=step,
            global_users=global_users,
            items=self.items,
            probability=self.probability,
            shown=self.shown,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
            vectors=None if users.vectors is None else users.vectors[place],
        )
        return cut, None if users.times is None else users.times[kept], is_target


def _after(is_history: npt.NDArray[np.bool_]) -> Int64Array:
    """The click after each of a history: there is one, the last target."""
    return np.flatnonzero(is_history) + 1


def _tensors(drawn: Drawn) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in drawn.tensors.items()}


def _view(history: History, drawn: DrawnView | None, profile_dropout: float) -> View:
    if drawn is None:
        return View(profile_dropout=profile_dropout)
    clicks = torch.from_numpy(drawn.clicks)
    masked = None if history.masked is None else history.masked[clicks]
    if drawn.masked is not None:
        more = torch.from_numpy(drawn.masked)
        masked = more if masked is None else masked | more
    changed = History(
        masked=masked,
        items=history.items[clicks],
        lengths=torch.from_numpy(drawn.lengths),
        buckets=drawn.buckets,
        times=None if history.times is None else history.times[clicks],
        asked_at=None if history.asked_at is None else history.asked_at[clicks],
    )
    return View(history=changed, profile_dropout=profile_dropout)


def _deduplicate(
    clicks: Int64Array, drawn: dict[str, Drawn]
) -> tuple[Int64Array, Int64Array, dict[str, dict[str, Tensor]]]:
    """Distinct ids (never none), clicks as rows of them, and what objectives drew as rows, in the shapes they drew."""
    wanted = [ids for found in drawn.values() for ids in found.item_ids.values()]
    together = np.concatenate([clicks, *(ids.ravel() for ids in wanted)])
    if len(together):
        # Arrow's hash table takes a fifth of the time of np.unique's sort.
        encoded = pa.array(together).dictionary_encode()
        ids, rows = encoded.dictionary.to_numpy().copy(), encoded.indices.to_numpy().astype(np.int64)
    else:
        ids, rows = np.zeros(1, np.int64), together
    first, *parts = np.split(rows, np.cumsum([len(clicks), *(each.size for each in wanted)])[:-1])
    left = iter(parts)
    found = {
        name: {key: torch.from_numpy(next(left).reshape(each.shape)) for key, each in one.item_ids.items()}
        for name, one in drawn.items()
    }
    return ids, first, found
