"""Predict the labels that the data knows of users: each label space is a table scored by u·w_y (PeterRec, SIGIR 2020,
§3; Conure, SIGIR 2021, §3), a bias-free linear layer in the engine. Softmax over all of its labels.

Shapes: B users of this rank, K labels of theirs in a space, C labels that the space has, S spaces, W ranks.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.manifest import LABELS, LabelSpace
from ppr_dist.data.stream.padding import ragged_arange
from ppr_dist.data.stream.step_users import Drawn, StepUsers
from ppr_dist.errors import UserError
from ppr_dist.objectives.base import Cost, Objective, Step, StepShape

MOST = 50_000
"""Labels of a space: beyond it the logits of a batch, and the layer on every rank, weigh more than the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The label spaces to predict."""

    names: list[str] | None = None
    """As ``prepare --labels.NAME`` named them; null = all that the data has."""


class Labels(Objective):
    """Σ over spaces of the mean of −log softmax over the labels of all users; a user without a label has no target."""

    name = LABELS
    section = Settings
    task = LABELS
    scores_items = False

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.spaces = catalogue.labels
        for space in self.spaces:
            if not 2 <= space.size <= MOST:
                raise UserError(f"labels: space {space.name!r} has {space.size:,} labels; it takes 2 to {MOST:,}")

    @classmethod
    def label_spaces(cls, config: Config, there: tuple[LabelSpace, ...]) -> tuple[LabelSpace, ...]:
        known = {space.name: space for space in there}
        names = config.part(cls.name, Settings).names
        names = list(known) if names is None else list(dict.fromkeys(names))
        if not names or not set(names) <= set(known):
            asked = ", ".join(names) or "none"
            raise UserError(f"labels.names: {asked}; the data has label spaces {', '.join(known) or 'none'}")
        return tuple(known[name] for name in names)

    def heads(self, dim: int) -> dict[str, nn.Module]:
        return {head_name(space.name): nn.Linear(dim, space.size, bias=False) for space in self.spaces}

    def draw(self, users: StepUsers) -> Drawn:
        labels = {space.name: users.labels[space.name] for space in self.spaces}
        tensors = {"counts": np.array([len(each.values) for each in labels.values()])}  # K of each space, [S]
        for name, each in labels.items():
            tensors |= {f"{name}.users": ragged_arange(each.lengths)[0], f"{name}.labels": each.values}
        return Drawn(tensors=tensors)

    def count(self, batch: Batch) -> Tensor:
        return self.to_exchange(batch).sum()

    def to_exchange(self, batch: Batch) -> Tensor:
        return batch.drawn[self.name]["counts"]

    def sum(self, step: Step) -> Tensor:
        # What is returned is divided by the labels of all spaces and ranks; each space is to have a mean of its own.
        sums = torch.stack([self._of_space(step, space.name) for space in self.spaces])  # [S]
        of_space, all_of_them = step.exchanged.integers.sum(0), step.exchanged.counts.sum()
        means = sums / of_space.clamp(min=1).to(sums.dtype)
        return means.sum() * all_of_them.clamp(min=1).to(sums.dtype)

    def _of_space(self, step: Step, name: str) -> Tensor:
        """Σ −log softmax over this rank's labels of a space."""
        logits = step.encoded.heads[head_name(name)] / self.scores.temperature  # [B, C]
        drawn = step.batch.drawn[self.name]
        users, labels = drawn[f"{name}.users"], drawn[f"{name}.labels"]  # [K]
        return logits.logsumexp(1).index_select(0, users).sum() - logits[users, labels].sum()

    def cost(self, shape: StepShape) -> Cost:
        return Cost(flops=2 * 3 * shape.users * shape.dim * sum(space.size for space in self.spaces))


def head_name(space: str) -> str:
    """The head of a label space."""
    return f"{LABELS}-{space}"
