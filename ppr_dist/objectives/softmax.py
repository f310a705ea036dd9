"""Sampled softmax over candidates that all ranks share.

Candidates are a mixture of in-batch targets and uniform items (Yang et al., "Mixed Negative Sampling for Learning
Two-tower Neural Networks in Recommendations", WWW 2020, §3.2). Shapes as in :mod:`ppr_dist.objectives.base`; K uniform
candidates of the whole step, k in-batch candidates of each user that serves, C candidates that a rank gives (the same
on every rank).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ppr_dist.arrays import Int64Array
from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.counter_random import integers
from ppr_dist.data.stream.step_users import Drawn, StepUsers
from ppr_dist.errors import UserError
from ppr_dist.loss.softmax import among, merged, sampled_softmax
from ppr_dist.objectives.base import NEGATIVE, Cost, Objective, Step, StepShape
from ppr_dist.objectives.candidates import given, most_serving, own_draws, require_candidates, serving
from ppr_dist.parallel.collectives import AsyncAllGather

_PICK = 12  # what a draw is for, as a word of its key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Sampled softmax: targets against candidates that all ranks share."""

    uniform_negatives: int = 512
    """Uniform candidates shared by the whole batch, summed over ranks."""
    in_batch_per_user: int = 4
    """Targets of each user that serve as candidates for every user of every rank; 0 = none."""
    in_batch_users: int = 4_096
    """Most users of a step whose targets serve; of a larger batch as many are drawn, so that the candidates of a step
    do not grow with the number of ranks."""
    exclude: Literal["target", "clicked"] = "target"
    """Candidates that a prediction is not compared with: its target, or every item its user clicks in this batch,
    before it and after it. Where nobody clicks an item twice the latter asks only what ``evaluate`` asks."""

    def __post_init__(self) -> None:
        require_candidates(self, "softmax")


class SampledSoftmax(Objective):
    """−log softmax of each target against the candidates of all ranks, corrected by log Q."""

    name = "softmax"
    section = Settings

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.settings = config.part(self.name, Settings)
        if config.train.refit and not self.settings.uniform_negatives:  # log Q of an item first clicked there: -inf
            raise UserError("train.refit needs softmax.uniform_negatives above 0: it adds clicks that no share counts")
        self.travel_as = torch.bfloat16 if config.tables.exchange == "bfloat16" else None

    def draw(self, users: StepUsers) -> Drawn:
        """This rank's candidates and log E[count] of each under both proposals together.

        E[count of j] = K/items + k·B'·p_j, B' the users whose targets serve. With p_j the item's share of the split's
        clicks this is close, not exact: each such user gives k of its own targets, so the clicks of users with few
        count for more.
        """
        ids = np.concatenate([self._in_batch(users), self._uniform(users)])
        serve = min(users.global_users, self.settings.in_batch_users)
        per_user, uniforms = self.settings.in_batch_per_user, self.settings.uniform_negatives
        expected = uniforms / users.items + per_user * serve * users.probability[ids]
        # The same on every rank.
        size = most_serving(users, self.settings.in_batch_users) * per_user + -(-uniforms // users.world_size)
        # Padding repeats an id of the batch, so that it adds nothing to the look-up.
        filler = np.repeat(ids[:1] if len(ids) else np.zeros(1, np.int64), size - len(ids))
        with np.errstate(divide="ignore"):
            log_q = np.concatenate([np.log(expected), np.full(len(filler), np.inf)]).astype(np.float32)
        return Drawn(item_ids={"candidates": np.concatenate([ids, filler])}, tensors={"log_q": log_q})

    def _in_batch(self, users: StepUsers) -> Int64Array:
        """Targets of this rank's users that serve as candidates, k of each user that is chosen."""
        who = np.flatnonzero(serving(users, self.settings.in_batch_users) & (users.counts > 0))
        first, each = users.first_target[who], np.arange(self.settings.in_batch_per_user)
        draw = integers(2**62, users.seed, _PICK, users.epoch, users.index[who][:, None], each)
        picks = draw % (users.counts[who] - first)[:, None]
        first_click = np.cumsum(users.counts) - users.counts
        candidates: Int64Array = users.clicks[((first_click[who] + first)[:, None] + picks).ravel()]
        return candidates

    def _uniform(self, users: StepUsers) -> Int64Array:
        """This rank's part of the uniform candidates, without hidden items."""
        each = own_draws(self.settings.uniform_negatives, users)
        ids = integers(users.items, users.seed, NEGATIVE, users.epoch, users.step, each)
        return ids[~users.hidden(ids)]

    def to_exchange(self, batch: Batch) -> Tensor:
        """Ids and the bits of log Q, int64 [2·C]."""
        drawn = batch.drawn[self.name]
        bits = drawn["log_q"].view(torch.int32).long()
        return torch.cat([batch.item_ids.index_select(0, drawn["candidates"]), bits])

    def start(self, batch: Batch, items: Tensor, labels: Mapping[str, Tensor]) -> AsyncAllGather:
        return AsyncAllGather(items.index_select(0, batch.drawn[self.name]["candidates"]), self.travel_as)

    def sum(self, step: Step) -> Tensor:
        positive, positive_ids = step.targets()
        ids, bits = step.exchanged.integers.chunk(2, dim=1)
        assert step.started is not None
        candidates, ids = step.started.wait(), ids.reshape(-1)
        log_q = bits.reshape(-1).to(torch.int32).view(torch.float32)
        candidates, ids, log_q = merged(candidates, ids, log_q)
        return sampled_softmax(
            step.encoded.user,
            positive,
            candidates,
            positive_ids=positive_ids,
            candidate_ids=ids,
            log_q=log_q,
            temperature=self.scores.temperature,
            logit_chunk=self.scores.logit_chunk,
            precision=self.scores.precision,
            excluded=self._clicked(step.batch, ids) if self.settings.exclude == "clicked" else None,
        )

    def _clicked(self, batch: Batch, candidate_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Which candidates each user clicks, bool [B, N], and whose each target is."""
        history = batch.history
        users = torch.arange(len(batch.users), device=candidate_ids.device)
        whose = torch.repeat_interleave(users, history.lengths, output_size=len(history.items))
        rows = torch.cat([history.items, batch.targets])
        clicked = among(
            candidate_ids,
            batch.item_ids.index_select(0, rows),
            torch.cat([whose, batch.user_rows]),
            len(batch.users),
        )
        return clicked, batch.user_rows

    def cost(self, shape: StepShape) -> Cost:
        w = shape.world_size
        in_batch, uniform = given(self.settings, shape, self.settings.in_batch_per_user)
        candidates = in_batch + uniform
        return Cost(
            items=uniform,
            bytes=(w - 1) * candidates * (8 * 2 + 2 * shape.travelling * shape.dim),
            flops=2 * 3 * shape.dim * shape.targets * w * candidates,
        )
