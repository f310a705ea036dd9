"""Predict a profile attribute from the history: cross-entropy over its values.

The label table is a bias-free linear layer in the engine, scored by u·w; for up to some 10^4 values.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.stream.step_users import Drawn, StepUsers
from ppr_dist.errors import UserError
from ppr_dist.objectives.base import Cost, Objective, Step, StepShape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The attribute to predict."""

    name: str | None = None
    """Its column, by default the data's first; neither prompts nor the profile encoder see it."""


class Attribute(Objective):
    """−log softmax of a user's value over all known values; a user whose value is unknown (0) has no target."""

    name = "attribute"
    section = Settings
    task = "attribute"
    scores_items = False

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        name = to_predict(config, catalogue.attributes)
        self.column, self.values = list(catalogue.attributes).index(name), catalogue.attributes[name]

    @classmethod
    def hides(cls, config: Config, attributes: dict[str, int]) -> tuple[str, ...]:
        return (to_predict(config, attributes),)

    def heads(self, dim: int) -> dict[str, nn.Module]:
        return {self.name: nn.Linear(dim, self.values - 1, bias=False)}  # of the known values

    def draw(self, users: StepUsers) -> Drawn:
        return Drawn(tensors={"labels": users.attributes[self.column].copy()})

    def count(self, batch: Batch) -> Tensor:
        return batch.drawn[self.name]["labels"].count_nonzero()

    def sum(self, step: Step) -> Tensor:
        logits = step.encoded.heads[self.name] / self.scores.temperature
        labels = step.batch.drawn[self.name]["labels"] - 1
        return F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")

    def cost(self, shape: StepShape) -> Cost:
        return Cost(flops=2 * 3 * shape.users * shape.dim * self.values)


def to_predict(config: Config, attributes: dict[str, int]) -> str:
    """Name of the attribute to predict, out of ``attributes`` (with cardinality).

    Raises :class:`UserError` where there is none such.
    """
    name = config.part(Attribute.name, Settings).name or next(iter(attributes), "")
    if attributes.get(name, 0) < 2:
        there = ", ".join(known for known, values in attributes.items() if values > 1) or "none"
        raise UserError(f"attribute.name {name!r}: choose an attribute with values; the data has {there}")
    return name
