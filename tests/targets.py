"""Targets with negatives of their own, and a plain formula's sum over them, for the losses that compare the two."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

P, N, WIDTH = 6, 4, 3


def targets() -> dict[str, torch.Tensor]:
    """Vectors float64 and ids of P targets and N negatives of each, one of which is its target: arguments of a loss."""
    generator = torch.Generator().manual_seed(0)
    negative_ids = torch.arange(P)[:, None] + 1 + torch.arange(N)
    negative_ids[1, 2] = 1
    return {
        "user": torch.randn(P, WIDTH, generator=generator, dtype=torch.float64),
        "positive": torch.randn(P, WIDTH, generator=generator, dtype=torch.float64),
        "negatives": torch.randn(P, N, WIDTH, generator=generator, dtype=torch.float64),
        "positive_ids": torch.arange(P),
        "negative_ids": negative_ids,
    }


def by_hand(
    given: dict[str, torch.Tensor], temperature: float, of_target: Callable[[float, list[float]], float]
) -> float:
    """Σ of ``of_target``, which is given a target's logit and those of its negatives."""
    total = 0.0
    for p in range(P):
        positive = (given["user"][p] @ given["positive"][p]).item() / temperature
        others = [n for n in range(N) if given["negative_ids"][p, n] != given["positive_ids"][p]]
        total += of_target(
            positive, [(given["user"][p] @ given["negatives"][p, n]).item() / temperature for n in others]
        )
    return total


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))
