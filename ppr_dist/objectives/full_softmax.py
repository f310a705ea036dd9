"""Softmax over the whole catalogue, each rank scoring a part of it (for up to some 10^5 items per rank)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ppr_dist.data.stream.step_users import Drawn, StepUsers
from ppr_dist.objectives.base import Cost, Objective, Step, StepShape
from ppr_dist.parallel.sharded_softmax import sharded_softmax


class FullSoftmax(Objective):
    """−log softmax of each target over all items."""

    name = "full_softmax"

    def draw(self, users: StepUsers) -> Drawn:
        """This rank's part of the catalogue, without hidden items: the block that row-wise sharding gives it, so that
        nothing travels.
        """
        block = -(-users.items // users.world_size)
        first, last = (min(r * block, users.items) for r in (users.rank, users.rank + 1))
        block_ids = np.arange(first, last)
        return Drawn(item_ids={"items": block_ids[~users.hidden(block_ids)]})

    def sum(self, step: Step) -> Tensor:
        return sharded_softmax(
            step.encoded.user,
            step.targets()[0],
            step.items.index_select(0, step.batch.drawn[self.name]["items"]),
            temperature=self.scores.temperature,
            logit_chunk=self.scores.logit_chunk,
            precision=self.scores.precision,
        )

    def cost(self, shape: StepShape) -> Cost:
        w, own = shape.world_size, -(-shape.items // shape.world_size)
        return Cost(
            items=own,
            local_items=own,
            bytes=4 * (w - 1) * shape.targets * (2 * shape.dim + 1 + w),
            # Four products: the logits are computed again for the gradients.
            flops=2 * 4 * shape.dim * shape.targets * shape.items,
        )
