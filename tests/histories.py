"""Some users' histories as a batch that asks after every context of every user."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from ppr_dist.batch import Batch, History, distinct_values
from ppr_dist.data.counter_random import bits
from ppr_dist.data.stream.padding import bucket_by_length

ITEMS = 30
HISTORIES = [[3, 7, 7, 1, 9, 12, 4], [5, 8, 2, 6, 1], [11, 3, 2, 28], [20], [29], []]
"""In descending order of length, as batches hold them."""
Times = Literal["no times", "times", "target's time"]


def history_of(lists: list[list[int]], times: Times = "no times") -> History:
    """A user's n-th click was (n + 1)^5 seconds after 1970, whoever stands beside."""
    lengths = torch.tensor([len(items) for items in lists], dtype=torch.int64)
    when = torch.tensor([(n + 1) ** 5 for items in lists for n in range(len(items))], dtype=torch.int64)
    after = torch.tensor([(n + 2) ** 5 for items in lists for n in range(len(items))], dtype=torch.int64)
    return History(
        items=torch.tensor([item for items in lists for item in items], dtype=torch.int64),
        lengths=lengths,
        buckets=bucket_by_length(lengths.numpy()),
        times=None if times == "no times" else when,
        asked_at=after if times == "target's time" else None,
    )


def batch_of(lists: list[list[int]], times: Times = "no times", *, seed: int = 0) -> Batch:
    """Every context of every user is asked for, user after user; ``seed``: of their keys."""
    history = history_of(lists, times)
    return Batch(
        users=torch.arange(len(lists)),
        item_ids=torch.arange(ITEMS),
        history=history,
        context_lengths=torch.cat([torch.arange(len(items) + 1) for items in lists] or [history.lengths]),
        user_rows=torch.repeat_interleave(torch.arange(len(lists)), history.lengths + 1),
        targets=torch.zeros(0, dtype=torch.int64),
        **distinct_values(np.zeros((2, len(lists)), np.int64)),
        keys=torch.from_numpy(bits(seed, np.arange(len(lists))).view(np.int64)),
    )
