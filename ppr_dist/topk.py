"""The k best of a catalogue's scores, seen a tile at a time: pure tensor arithmetic.

Shapes: X users, n items of a tile, h hits: scores of a tile that are above their user's k-th best so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 32
"""Items of which only the greatest score is compared; 16 and 64 are slower (measured at 10^6 items)."""


class RunningTopK:
    """The k best items of X users. Exact; of equal scores any may stay.

    After the first tiles few scores are above the k-th best so far. So a tile is read once, for the greatest score of
    each block of items; only in blocks above the k-th best the hits are searched, and hits are sorted in now and then.
    As in ``torch.topk``, what is not a number counts as greatest.
    """

    def __init__(self, users: int, k: int, device: torch.device) -> None:
        self.k = k
        self._scores = torch.full((users, k), -torch.inf, device=device)
        self._items = torch.full((users, k), -1, dtype=torch.int64, device=device)
        self._hits: list[tuple[Tensor, Tensor, Tensor]] = []
        self._waiting = 0

    def add(self, first: int, scores: Tensor) -> None:
        """Take in the scores [X, n] of the items from ``first`` on. Fastest where laid out by item."""
        found = hits_above(scores, self._scores[:, -1])
        if found is None:
            best, columns = scores.contiguous().topk(min(self.k, scores.shape[1]), sorted=False)
            users = torch.arange(len(best), device=best.device).repeat_interleave(best.shape[1])
            found = users, columns.flatten(), best.flatten()
        users, columns, values = found
        self._hits.append((users, columns + first, values))
        self._waiting += len(users)
        # Sorting more often costs more; less often, the k-th best lags behind and more scores are above it.
        if 2 * self._waiting > self._scores.numel():
            self._sort_in()

    def best(self) -> tuple[Tensor, Tensor]:
        """Items int64 [X, k] and scores [X, k], best first; −inf where there are fewer than k."""
        self._sort_in()
        return self._items, self._scores

    def _sort_in(self) -> None:
        if not self._waiting:
            return
        users, items, values = (torch.cat(parts) for parts in zip(*self._hits, strict=True))
        self._hits, self._waiting = [], 0
        by_user = users.argsort()
        users, items, values = users[by_user], items[by_user], values[by_user]
        counts = torch.bincount(users, minlength=len(self._scores))
        nth = torch.arange(len(users), device=users.device) - (counts.cumsum(0) - counts)[users]
        # A user with many more hits than others is sorted in rounds, so that the padded rows stay short.
        most = int(counts.max())
        room = min(most, 2 * self.k)
        for start in range(0, most, room):
            now = (nth >= start) & (nth < start + room)
            place = users[now], self.k + nth[now] - start
            scores = torch.nn.functional.pad(self._scores, (0, room), value=-torch.inf)
            candidates = torch.nn.functional.pad(self._items, (0, room), value=-1)
            scores[place], candidates[place] = values[now], items[now]
            self._scores, order = scores.topk(self.k)
            self._items = candidates.gather(1, order)


def hits_above(scores: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """User, column and value, each [h], of the scores [X, n] above their user's ``floor`` [X].

    None where they are in more than half of the blocks, or n is no whole number of blocks: sorting is faster then.
    """
    if scores.shape[1] % BLOCK:
        return None
    blocks = scores.T.unflatten(0, (-1, BLOCK))  # [n / BLOCK, BLOCK, X]
    above = ~(blocks.amax(1) <= floor)  # not ">", which leaves out what is not a number
    block, user = above.nonzero(as_tuple=True)
    if 2 * len(user) > above.numel():
        return None
    values = blocks[block, :, user]
    hit, nth = (~(values <= floor[user, None])).nonzero(as_tuple=True)
    return user[hit], block[hit] * BLOCK + nth, values[hit, nth]
