"""The prompt-oriented contrastive loss of PPR (§3.5, eq. 6): a user's state against two views of all users."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.counter_random import uniform
from ppr_dist.data.stream.padding import ragged_arange, rebucket
from ppr_dist.data.stream.step_users import Drawn, DrawnView, StepUsers
from ppr_dist.errors import UserError, require_positive, require_probability
from ppr_dist.loss.contrastive import info_nce
from ppr_dist.objectives.base import Cost, Objective, Step, StepShape
from ppr_dist.parallel.collectives import AsyncAllGather, pad_rows

_DROP = 13  # what a draw is for, as a word of its key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The contrastive loss of tuning with a prompt."""

    weight: float = 0.1
    """λ; 0 = none."""
    temperature: float = 0.2
    """τ."""
    profile_dropout: float = 0.2
    """γ1: share of the profile's elements dropped in the first view."""
    interaction_dropout: float = 0.2
    """γ2: share of interactions dropped in the second view (never the last)."""

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise UserError(f"contrastive.weight must be at least 0, not {self.weight}")
        require_positive(self, "contrastive", "temperature")
        require_probability(self, "contrastive", "profile_dropout", "interaction_dropout")


class Contrastive(Objective):
    """InfoNCE with cosine / τ of each user's state against each view, the other users of all ranks being negatives."""

    name = "contrastive"
    section = Settings
    scores_items = False

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.settings = config.part(self.name, Settings)
        self.weight = self.settings.weight

    def draw(self, users: StepUsers) -> Drawn:
        """Drop each interaction but the last with probability γ2 and close the gaps (PPR §3.5.2)."""
        lengths = users.lengths
        row, position = ragged_arange(lengths)
        keep = uniform(users.seed, _DROP, users.epoch, users.index[row], position) >= self.settings.interaction_dropout
        keep |= position == lengths[row] - 1
        kept = np.bincount(row[keep], minlength=len(users.index))
        fewer = DrawnView(clicks=np.flatnonzero(keep), lengths=kept, buckets=rebucket(users.buckets, kept))
        return Drawn(views=((None, self.settings.profile_dropout), (fewer, 0.0)))

    def count(self, batch: Batch) -> int:
        return len(batch.users)

    def sum(self, step: Step) -> Tensor:
        state, *views = step.encoded.final_of(step.batch, self.name)
        most, device = step.batch.max_users_per_rank, state.device
        valid = (torch.arange(most, device=device) < step.exchanged.counts[:, None]).flatten()
        labels = torch.arange(len(state), device=device) + dist.get_rank() * most
        total = state.new_zeros(())
        for gather in [AsyncAllGather(pad_rows(view, most)) for view in views]:
            total = total + info_nce(
                state,
                gather.wait(),
                labels=labels,
                valid=valid,
                temperature=self.settings.temperature,
                logit_chunk=self.scores.logit_chunk,
                precision=self.scores.precision,
            )
        return total

    def cost(self, shape: StepShape) -> Cost:
        w, views = shape.world_size, 2
        return Cost(
            bytes=2 * 4 * (w - 1) * views * shape.max_users_per_rank * shape.dim,
            flops=2 * 3 * shape.dim * shape.users * views * shape.max_users_per_rank * w,
            views=(1.0, 1.0 - self.settings.interaction_dropout),
        )
