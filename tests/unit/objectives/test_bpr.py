"""BPR against its formula, pair by pair."""

from __future__ import annotations

import math

import torch

from ppr_dist.objectives.bpr import bpr

P, N, WIDTH = 6, 4, 3


def problem() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "user": torch.randn(P, WIDTH, generator=generator, dtype=torch.float64),
        "positive": torch.randn(P, WIDTH, generator=generator, dtype=torch.float64),
        "negatives": torch.randn(P, N, WIDTH, generator=generator, dtype=torch.float64),
        "positive_ids": torch.arange(P),
        "negative_ids": torch.arange(P)[:, None] + 1 + torch.arange(N),
    }


def by_hand(given: dict[str, torch.Tensor], temperature: float) -> float:
    total = 0.0
    for p in range(P):
        pairs = []
        for n in range(N):
            if given["negative_ids"][p, n] != given["positive_ids"][p]:
                margin = (given["user"][p] @ (given["positive"][p] - given["negatives"][p, n])).item() / temperature
                pairs.append(math.log(1 + math.exp(-margin)))
        total += sum(pairs) / len(pairs) if pairs else 0.0
    return total


def test_is_the_mean_over_pairs_summed_over_predictions() -> None:
    given = problem()
    for temperature in (1.0, 0.3):
        assert abs(float(bpr(**given, temperature=temperature)) - by_hand(given, temperature)) < 1e-12


def test_a_negative_that_is_the_positive_is_left_out_of_sum_and_mean() -> None:
    given = problem()
    given["negative_ids"][1, 2] = 1
    given["negative_ids"][3] = 3
    given["negatives"].requires_grad_()
    loss = bpr(**given, temperature=0.5)
    assert abs(loss.item() - by_hand(given, 0.5)) < 1e-12
    (grad,) = torch.autograd.grad(loss, given["negatives"])
    assert grad[3].abs().max() == 0
    assert grad[1, 2].abs().max() == 0
    assert (grad[1, [0, 1, 3]].abs().sum(1) > 0).all()


def test_gradcheck() -> None:
    given = problem()
    tensors = [given[name].requires_grad_() for name in ("user", "positive", "negatives")]
    ids = {name: given[name] for name in ("positive_ids", "negative_ids")}
    assert torch.autograd.gradcheck(lambda u, p, n: bpr(u, p, n, **ids, temperature=0.5), tensors)


def test_no_predictions() -> None:
    given = {name: tensor[:0] for name, tensor in problem().items()}
    assert bpr(**given, temperature=1.0) == 0


def test_a_far_lost_pair_stays_finite() -> None:
    given = problem()
    given["user"] = (given["user"] * 1e5).requires_grad_()
    loss = bpr(**given, temperature=1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert given["user"].grad is not None
    assert torch.isfinite(given["user"].grad).all()
