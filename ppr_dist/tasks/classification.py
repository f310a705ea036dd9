"""How well one of several values is predicted, from counts that add up over users and ranks.

Shapes: n users, C values.
"""

from __future__ import annotations

import torch
from torch import Tensor

METRICS = ("accuracy", "precision", "recall", "f1")


def counts(predicted: Tensor, actual: Tensor, values: int) -> Tensor:
    """Of each value how often it was rightly predicted, predicted, and there, float64 [3, C]; int64 [n] each."""
    right = actual[predicted == actual]
    return torch.stack([torch.bincount(which, minlength=values) for which in (right, predicted, actual)]).double()


def figures(counted: Tensor) -> dict[str, float]:
    """Accuracy; precision, recall and F1 as means over the values that occur (macro); the most frequent value's share.

    Of [3, C] with at least one user.
    """
    right, predicted, actual = counted
    users, occurs = float(actual.sum()), actual > 0
    of_value = {
        "precision": right / predicted.clamp(min=1),
        "recall": right / actual.clamp(min=1),
        "f1": 2 * right / (predicted + actual).clamp(min=1),
    }
    means = {name: float(each[occurs].mean()) for name, each in of_value.items()}
    return {"accuracy": float(right.sum()) / users, **means, "majority_rate": float(actual.max()) / users}
