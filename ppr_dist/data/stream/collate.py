"""Users → Batch: cut histories and targets, draw negatives and views, deduplicate ids. Numpy, on the host.

Every random draw is a function of (seed, epoch, user or step), so W ranks draw together what one rank draws.
Shapes as in :mod:`ppr_dist.batch`; K uniform negatives of the whole step, k in-batch candidates per user.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ppr_dist.batch import Batch, distinct_values
from ppr_dist.config import Loss
from ppr_dist.data.counter_random import integers, uniform
from ppr_dist.data.stream.item_shares import ItemShares
from ppr_dist.data.stream.padding import bucket_by_length, ragged_arange, rebucket
from ppr_dist.data.stream.users import Int64Array, Users

_NEGATIVE, _PICK, _DROP, _LEND = 11, 12, 13, 14  # what a draw is for, as a word of its key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collator:
    """Makes batches of a split for one rank."""

    loss: Loss
    items: int
    """Size of the catalogue."""
    probability: npt.NDArray[np.float32] | ItemShares
    """Share of each item among the split's training clicks, [items]; the in-batch proposal of logQ. Of whole histories,
    where targets are the last ``max_length`` of each: an item clicked early in long ones counts for a little more."""
    max_length: int
    hold_out: int
    """Last interactions of each user kept out of training (2 in pre-training: validation and test target)."""
    first_target: int
    """0 where the first interaction is a target too (the prompt or profile alone predicts it), else 1."""
    views: bool
    """Whether to draw the behaviour-masked view."""
    seed: int
    rank: int
    world_size: int
    bucket_tokens: int | None = None
    """Tokens an attention group holds before a shorter history opens the next; None: what suits a CPU."""

    def __call__(self, users: Users, *, epoch: int, step: int, global_users: int) -> Batch:
        starts, stops = users.offsets[:-1], users.offsets[1:] - self.hold_out
        whole = starts >= stops - (self.max_length + 1)
        starts = np.maximum(starts, stops - (self.max_length + 1))
        clicks = stops - starts  # of each user: inputs and the last target
        clicks = np.where(clicks > self.first_target, clicks, 0)  # fewer hold no target, so none is looked up
        by_length = np.argsort(-clicks, kind="stable")
        index, starts, clicks = users.index[by_length], starts[by_length], clicks[by_length]
        # Before the oldest click kept of a cut history there were others: the profile alone does not predict it.
        first_target = np.where(whole[by_length], self.first_target, 1)
        lengths = np.maximum(clicks - 1, 0)

        row, position = ragged_arange(clicks)
        items = users.items[starts[row] + position]
        is_history, is_target = position < lengths[row], position >= first_target[row]
        owner, prefix = row[is_target], position[is_target]

        parts: dict[str, Int64Array] = {"clicks": items}
        log_q = None
        if self.loss.kind == "softmax":
            lends = self._lenders(epoch, step, global_users, len(index))[by_length]
            who = np.flatnonzero(lends & (clicks > 0))
            picks = self._picks(epoch, index[who], (clicks - first_target)[who])
            first_target = (np.cumsum(clicks) - clicks + first_target)[who]
            in_batch = items[(first_target[:, None] + picks).ravel()]
            parts["candidates"], log_q = self._candidates(in_batch, epoch, step, global_users)
        elif self.loss.kind == "full_softmax":
            parts["candidates"] = self._own_items()
        else:
            draw = np.arange(self.loss.uniform_negatives)
            user, where = index[owner][:, None], prefix[:, None]
            parts["negatives"] = integers(self.items, self.seed, _NEGATIVE, epoch, user, where, draw).ravel()

        item_ids, rows = _deduplicate(parts)
        batch = Batch(
            users=torch.from_numpy(index),
            item_ids=torch.from_numpy(item_ids),
            history=torch.from_numpy(rows["clicks"][is_history]),
            lengths=torch.from_numpy(lengths),
            groups=bucket_by_length(lengths, self.bucket_tokens),
            prefix=torch.from_numpy(prefix),
            owner=torch.from_numpy(owner),
            targets=torch.from_numpy(rows["clicks"][is_target]),
            **distinct_values(users.attributes[:, by_length]),
            total_targets=float(len(owner)),
            max_users_per_rank=-(-global_users // self.world_size),
            candidates=torch.from_numpy(rows["candidates"]) if "candidates" in rows else None,
            candidate_log_q=torch.from_numpy(log_q) if log_q is not None else None,
            negatives=torch.from_numpy(rows["negatives"].reshape(-1, self.loss.uniform_negatives))
            if "negatives" in rows
            else None,
        )
        return self._with_view(batch, epoch) if self.views else batch

    def _lenders(self, epoch: int, step: int, global_users: int, users: int) -> npt.NDArray[np.bool_]:
        """Which of this rank's users lend targets as candidates, [users] in the order of the global batch.

        Where the batch has more than ``in_batch_users``, one at random of each of as many equal parts of it.
        """
        most = self.loss.in_batch_users
        if global_users <= most:
            return np.ones(users, np.bool_)
        edges = np.arange(most + 1) * global_users // most
        draw = integers(2**62, self.seed, _LEND, epoch, step, np.arange(most))
        chosen = edges[:-1] + draw % np.diff(edges) - self.rank * global_users // self.world_size
        lends = np.zeros(users, np.bool_)
        lends[chosen[(chosen >= 0) & (chosen < users)]] = True
        return lends

    def _picks(self, epoch: int, index: Int64Array, targets_each: Int64Array) -> Int64Array:
        """Which of its targets each user lends as in-batch candidates, [users, k]."""
        bits = integers(2**62, self.seed, _PICK, epoch, index[:, None], np.arange(self.loss.in_batch_per_user))
        picks: Int64Array = bits % targets_each[:, None]
        return picks

    def _own_items(self) -> Int64Array:
        """This rank's part of the catalogue: the block that row-wise sharding gives it, so that nothing travels."""
        block = -(-self.items // self.world_size)
        return np.arange(min(self.rank * block, self.items), min((self.rank + 1) * block, self.items))

    def _candidates(
        self, in_batch: Int64Array, epoch: int, step: int, global_users: int
    ) -> tuple[Int64Array, npt.NDArray[np.float32]]:
        """This rank's share of the candidates and log E[count] of each under both proposals together.

        In-batch and uniform candidates are one mixture (Yang et al., "Mixed Negative Sampling for Learning
        Two-tower Neural Networks in Recommendations", WWW 2020, §3.2): E[count of j] = K/items + k·lenders·p_j. With
        p_j the item's share of the split's clicks this is close, not exact: each lender gives k of its own targets, so
        the clicks of users with few count for more.
        """
        per_user, uniforms = self.loss.in_batch_per_user, self.loss.uniform_negatives
        first, last = self.rank * uniforms // self.world_size, (self.rank + 1) * uniforms // self.world_size
        uniform_ids = integers(self.items, self.seed, _NEGATIVE, epoch, step, np.arange(first, last))

        ids = np.concatenate([in_batch, uniform_ids])
        lenders = min(global_users, self.loss.in_batch_users)
        expected = uniforms / self.items + per_user * lenders * self.probability[ids]
        # The same on every rank: n neighbours of the batch lie in at most n·lenders/users + 2 of its parts.
        max_users_per_rank = -(-global_users // self.world_size)
        most_lenders = min(max_users_per_rank, max_users_per_rank * lenders // max(1, global_users) + 2)
        size = most_lenders * per_user + -(-uniforms // self.world_size)
        padding = size - len(ids)
        # Padding repeats an id of the batch, so that it adds nothing to the look-up.
        filler = ids[:1] if len(ids) else np.zeros(1, np.int64)
        with np.errstate(divide="ignore"):
            log_q = np.log(expected)
        return (
            np.concatenate([ids, np.repeat(filler, padding)]),
            np.concatenate([log_q, np.full(padding, np.inf)]).astype(np.float32),
        )

    def _with_view(self, batch: Batch, epoch: int) -> Batch:
        """Drop each interaction but the last with probability γ2 and close the gaps (PPR §3.5.2)."""
        users, lengths = batch.users.numpy(), batch.lengths.numpy()
        row, position = ragged_arange(lengths)
        keep = uniform(self.seed, _DROP, epoch, users[row], position) >= self.loss.interaction_dropout
        keep |= position == lengths[row] - 1
        kept = np.bincount(row[keep], minlength=len(users))
        return dataclasses.replace(
            batch,
            masked_history=batch.history[torch.from_numpy(keep)],
            masked_lengths=torch.from_numpy(kept),
            masked_buckets=rebucket(batch.groups, kept),
        )


def _deduplicate(parts: dict[str, Int64Array]) -> tuple[Int64Array, dict[str, Int64Array]]:
    """Return the distinct ids of all parts (never empty) and each part as rows into them."""
    together = np.concatenate(list(parts.values()))
    if not len(together):
        return np.zeros(1, np.int64), parts
    # Arrow's hash table takes a fifth of the time of np.unique's sort.
    encoded = pa.array(together).dictionary_encode()
    ids, rows = encoded.dictionary.to_numpy().copy(), encoded.indices.to_numpy().astype(np.int64)
    ends = np.cumsum([len(part) for part in parts.values()])[:-1]
    return ids, dict(zip(parts, np.split(rows, ends), strict=True))
