"""CL4SRec (Xie et al., "Contrastive Learning for Sequential Recommendation", ICDE 2022, §III): two views of each user.

Beside a prediction loss (``train.objectives: [softmax, cl4srec]``) it is the published sum; alone it is pre-training by
contrast. Shapes: B users, T clicks of their histories.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ppr_dist.arrays import Int64Array
from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.counter_random import bits
from ppr_dist.data.stream.padding import ragged_arange, rebucket
from ppr_dist.data.stream.step_users import Drawn, DrawnView, StepUsers
from ppr_dist.errors import UserError, require_positive
from ppr_dist.loss.nt_xent import nt_xent
from ppr_dist.objectives.base import Cost, Objective, Step, StepShape
from ppr_dist.parallel.collectives import AsyncAllGather, pad_rows

Operation = Literal["crop", "mask", "reorder"]
_WHICH, _WHERE, _EACH = 31, 32, 33  # what a draw is for, as a word of its key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """CL4SRec's contrastive loss. Shares are those of the public code (RuihongQiu/DuoRec)."""

    weight: float = 0.1
    """λ; what the loss is multiplied by."""
    operations: list[Operation] = dataclasses.field(default_factory=lambda: ["crop", "mask", "reorder"])
    """What views are made by: two different ones for each user and epoch, or one for both where there is no other."""
    crop: float = 0.6
    """η: share of the clicks that cropping keeps, neighbours of one another."""
    mask: float = 0.3
    """γ: share of the clicks in whose place masking puts a learnt vector."""
    reorder: float = 0.6
    """β: share of the clicks, neighbours of one another, whose order is drawn anew."""
    similarity: Literal["dot", "cosine"] = "dot"
    """Of two views."""
    temperature: float = 1.0
    """τ; similarities are divided by this."""

    def __post_init__(self) -> None:
        require_positive(self, "cl4srec", "temperature")
        for name in ("crop", "mask", "reorder"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"cl4srec.{name} must be above 0 and at most 1, not {getattr(self, name)}")
        if not self.operations or len(set(self.operations)) < len(self.operations):
            raise UserError("cl4srec.operations: one or several of crop, mask, reorder, each once")
        if not self.weight >= 0:
            raise UserError(f"cl4srec.weight must be at least 0, not {self.weight}")


class CL4SRec(Objective):
    """NT-Xent of two views of each user's history, the views of the other users of all ranks being negatives."""

    name = "cl4srec"
    section = Settings
    scores_items = False
    masks = True

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.settings = config.part(self.name, Settings)
        self.weight = self.settings.weight

    def draw(self, users: StepUsers) -> Drawn:
        # Of a user without a history there are no two views. Users stand in descending order of their clicks.
        return Drawn(
            tensors={"users": np.flatnonzero(users.lengths)},
            views=tuple((self._view(users, number), 0.0) for number in (0, 1)),
        )

    def _view(self, users: StepUsers, number: int) -> DrawnView:
        """One of the two views; a history of a single click stays as it is (as in the public code)."""
        settings, lengths, key = self.settings, users.lengths, (users.seed, users.epoch)
        names = settings.operations
        # The operations of a user in random order: the first makes one view, the second the other.
        order = np.argsort(bits(key[0], _WHICH, key[1], users.index[:, None], np.arange(len(names))), axis=1)
        chosen = np.where(lengths > 1, order[:, min(number, len(names) - 1)], -1)
        row, position = ragged_arange(lengths)
        draws = bits(key[0], _EACH, key[1], number, users.index[row], position)

        def part(operation: Operation, least: int = 0) -> tuple[Int64Array, np.ndarray]:
            """How many clicks of each user it takes, and which of all clicks are of users that it was chosen for."""
            size = np.maximum(np.floor(getattr(settings, operation) * lengths).astype(np.int64), least)
            which = names.index(operation) if operation in names else len(names)
            return size, (chosen == which)[row]

        def stretch(size: Int64Array) -> np.ndarray:
            """Which clicks lie in a stretch of ``size`` neighbours somewhere in the history."""
            room = np.maximum(lengths - size + 1, 1).astype(np.uint64)
            first = (bits(key[0], _WHERE, key[1], number, users.index) % room).astype(np.int64)[row]
            return (position >= first) & (position < first + size[row])

        crop, cropped = part("crop", least=1)
        kept = ~cropped | stretch(crop)
        mask, masks = part("mask")
        masked = masks & (_rank_within(row, draws) < mask[row])
        reorder, reordered = part("reorder")
        reordered &= stretch(reorder)
        clicks = np.arange(len(row))
        # Within a stretch the clicks trade places among themselves.
        places = np.flatnonzero(reordered)
        clicks[places] = places[np.lexsort((draws[places], row[places]))]
        counts = np.bincount(row[kept], minlength=len(lengths))
        return DrawnView(
            clicks=clicks[kept], lengths=counts, buckets=rebucket(users.buckets, counts), masked=masked[kept]
        )

    def count(self, batch: Batch) -> int:
        return len(batch.drawn[self.name]["users"])

    def sum(self, step: Step) -> Tensor:
        mine = step.batch.drawn[self.name]["users"]
        one, other = (view.index_select(0, mine) for view in step.encoded.final_of(step.batch, self.name)[1:])
        most, device = step.batch.max_users_per_rank, one.device
        gathers = [AsyncAllGather(pad_rows(view, most)) for view in (one, other)]
        valid = (torch.arange(most, device=device) < step.exchanged.counts[:, None]).flatten()
        everyone = torch.arange(len(valid), device=device)
        first = dist.get_rank() * most
        return nt_xent(
            one,
            other,
            torch.cat([gather.wait() for gather in gathers]),
            users=everyone[first : first + len(one)],
            key_users=everyone.repeat(2),
            valid=valid.repeat(2),
            cosine=self.settings.similarity == "cosine",
            temperature=self.settings.temperature,
            logit_chunk=self.scores.logit_chunk,
            precision=self.scores.precision,
        ).div(2)  # the mean over both views' anchors

    def cost(self, shape: StepShape) -> Cost:
        w, keys = shape.world_size, 2 * shape.max_users_per_rank
        return Cost(
            bytes=2 * 4 * (w - 1) * keys * shape.dim,
            flops=2 * 3 * shape.dim * 2 * shape.users * keys * w,
            views=(1.0, 1.0),
        )


def _rank_within(row: Int64Array, draws: np.ndarray) -> Int64Array:
    """Which place each draw takes among those of its row, ascending, from 0; rows stand together."""
    order = np.lexsort((draws, row))
    ranks = np.empty(len(row), np.int64)
    first = np.searchsorted(row, row)
    ranks[order] = np.arange(len(row))
    return ranks - first
