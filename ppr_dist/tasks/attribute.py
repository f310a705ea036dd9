"""Predict a profile attribute of users from their clicks (PPR Table VIII), by a run with the objective attribute."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppr_dist.config import Config
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.data.stream.users import Users
from ppr_dist.errors import UserError
from ppr_dist.objectives.attribute import to_predict
from ppr_dist.scoring import ModelScorer
from ppr_dist.tasks import classification
from ppr_dist.tasks.base import Evaluation, Task


class Attribute(Task):
    """Accuracy; precision, recall and F1 as means over the values that occur (macro). Unknown values are left out."""

    protocol = "classification"
    best_metric = "accuracy"
    has_targets = False

    def metric_names(self) -> tuple[str, ...]:
        return classification.METRICS

    def check(self, config: Config, *, by_model: bool) -> None:
        if "attribute" not in config.train.objectives:
            raise UserError("--task attribute needs a run trained with --train.objectives attribute")
        if not by_model:
            raise UserError("--task attribute is not answered by a --baseline")

    def sums(self, evaluation: Evaluation, users: Users) -> dict[str, Tensor]:
        assert isinstance(evaluation.scorer, ModelScorer)
        attributes, name = _attributes(evaluation)
        column, values = list(attributes).index(name), attributes[name]
        known = np.flatnonzero(users.attributes[column])
        everything = Instances(users, known, users.lengths[known])
        batch = history_batch(everything, evaluation.config.model.max_length)
        logits = evaluation.scorer.encode(batch).heads["attribute"]
        # The batch has its users in another order.
        predicted = logits.argmax(1).cpu()[batch.user_rows]
        actual = torch.from_numpy(users.attributes[column][known] - 1)
        return {"counts": classification.counts(predicted, actual, values - 1)}

    def finish(self, evaluation: Evaluation, sums: dict[str, Tensor]) -> dict[str, Any]:
        users = int(sums["counts"][2].sum())
        if not users:
            raise UserError(f"{evaluation.data}: no user of split {evaluation.split!r} has a known value to predict")
        name = _attributes(evaluation)[1]
        return {"attribute": name, "users": users, **classification.figures(sums["counts"])}


def _attributes(evaluation: Evaluation) -> tuple[dict[str, int], str]:
    """Cardinality of every attribute, and the one that is predicted."""
    attributes = {attribute.name: attribute.cardinality for attribute in evaluation.manifest.attributes}
    return attributes, to_predict(evaluation.config, attributes)
