"""Attribute embeddings that begin as means of item vectors, as in the public code of PPR's authors (wyqing20/APRec).

Shapes: C clicks of a block of users, D width, n values of an attribute.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.tables import profile_table


@torch.no_grad()
def begin_as_item_means(parallel: Parallel, use: str, stream: UserStream, hold_out: int) -> None:
    """Set each value's row in the tables of ``use`` to the mean, over all clicks of the stream's users who have that
    value, of the items' vectors; without a click it stays as it was. A collective.

    ``hold_out``: last clicks of each user that training does not see. Sums are float64, so that any number of ranks
    gives the same but for their last bits, which float32 drops.
    """
    embeddings = parallel.embeddings
    sizes, device = embeddings.sizes, embeddings.device
    parallel.engine.eval()
    names = list(sizes.attributes)
    sums = [torch.zeros(n, sizes.dim + 1, dtype=torch.float64, device=device) for n in sizes.attributes.values()]
    for _, _, users in stream.batches(0, range(stream.steps)):
        kept = np.maximum(users.lengths - hold_out, 0)
        seen = np.arange(len(users.items)) < np.repeat(users.offsets[:-1] + kept, users.lengths)
        ids, row = np.unique(users.items[seen], return_inverse=True)
        rows = embeddings.look_up_items(torch.from_numpy(ids).to(device))
        vectors = parallel.item_vectors(rows).inputs.double()
        counted = torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1)  # the last column counts clicks
        clicked = counted[torch.from_numpy(row).to(device)]
        for column, total in zip(sizes.columns, sums, strict=True):
            value = np.repeat(users.attributes[column], kept)
            total.index_add_(0, torch.from_numpy(value).to(device), clicked)
    for total in sums:
        dist.all_reduce(total)
    means = {profile_table(use, name): total for name, total in zip(names, sums, strict=True)}
    for table, weights, first_row, first_column in embeddings.local_shards():
        if table in means:
            own = means[table][first_row : first_row + len(weights)]
            mean = (own[:, :-1] / own[:, -1:])[:, first_column : first_column + weights.shape[1]]
            weights.copy_(torch.where(own[:, -1:] > 0, mean.to(weights.dtype), weights))
