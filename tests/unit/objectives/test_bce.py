"""Binary cross-entropy against its formula, term by term."""

from __future__ import annotations

import math

import torch

from ppr_dist.objectives.bce import bce

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


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(given: dict[str, torch.Tensor], temperature: float) -> float:
    total = 0.0
    for p in range(P):
        total -= math.log(sigmoid((given["user"][p] @ given["positive"][p]).item() / temperature))
        for n in range(N):
            if given["negative_ids"][p, n] != given["positive_ids"][p]:
                total -= math.log(1 - sigmoid((given["user"][p] @ given["negatives"][p, n]).item() / temperature))
    return total


def test_is_the_sum_over_predictions_and_negatives() -> None:
    given = problem()
    for temperature in (1.0, 0.3):
        assert abs(float(bce(**given, temperature=temperature)) - by_hand(given, temperature)) < 1e-11


def test_is_torchs_binary_cross_entropy_with_logits() -> None:
    given = problem()
    logits = torch.cat([given["positive"][:, None], given["negatives"]], dim=1) @ given["user"][:, :, None] / 0.7
    labels = torch.zeros(P, 1 + N, dtype=torch.float64)
    labels[:, 0] = 1
    want = torch.nn.functional.binary_cross_entropy_with_logits(logits[..., 0], labels, reduction="sum")
    torch.testing.assert_close(bce(**given, temperature=0.7), want, rtol=1e-12, atol=0)


def test_a_negative_that_is_the_positive_is_left_out_and_gets_no_gradient() -> None:
    given = problem()
    given["negative_ids"][1, 2] = 1
    given["negative_ids"][3] = 3
    leaves = {name: given[name].requires_grad_() for name in ("user", "positive", "negatives")}
    loss = bce(**given, temperature=0.5)
    assert abs(loss.item() - by_hand(given, 0.5)) < 1e-11
    user, positive, negatives = torch.autograd.grad(loss, list(leaves.values()))
    assert negatives[3].abs().max() == 0
    assert negatives[1, 2].abs().max() == 0
    assert (negatives[1, [0, 1, 3]].abs().sum(1) > 0).all()
    assert torch.isfinite(user).all()
    assert (positive[3].abs() > 0).all()


def test_gradcheck() -> None:
    given = problem()
    given["negative_ids"][1, 2] = 1
    tensors = [given[name].requires_grad_() for name in ("user", "positive", "negatives")]
    ids = {name: given[name] for name in ("positive_ids", "negative_ids")}
    assert torch.autograd.gradcheck(lambda u, p, n: bce(u, p, n, **ids, temperature=0.5), tensors)


def test_no_predictions() -> None:
    given = {name: tensor[:0] for name, tensor in problem().items()}
    assert bce(**given, temperature=1.0) == 0


def test_extreme_logits_stay_finite() -> None:
    given = problem()
    given["user"] = (given["user"] * 1e5).requires_grad_()
    loss = bce(**given, temperature=1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert given["user"].grad is not None
    assert torch.isfinite(given["user"].grad).all()
