"""Sampled softmax against formulas written out with every logit at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ppr_dist.loss.softmax import among, merged, sampled_softmax

ITEMS, WIDTH, PREDICTIONS = 23, 5, 9


def problem(candidates: int = 31, seed: int = 0) -> dict[str, Any]:
    """Candidates with repeats, collisions with positives, and padding; float64."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(ITEMS, WIDTH, generator=generator, dtype=torch.float64)
    positive_ids = torch.randint(ITEMS, (PREDICTIONS,), generator=generator)
    candidate_ids = torch.randint(ITEMS, (candidates,), generator=generator)
    log_q = torch.randn(candidates, generator=generator, dtype=torch.float64)
    log_q[[2, 11]] = torch.inf
    return {
        "user": torch.randn(PREDICTIONS, WIDTH, generator=generator, dtype=torch.float64),
        "positive": table[positive_ids],
        "candidates": table[candidate_ids],
        "positive_ids": positive_ids,
        "candidate_ids": candidate_ids,
        "log_q": log_q,
        "temperature": 0.7,
    }


def materialised(
    user: Tensor,
    positive: Tensor,
    candidates: Tensor,
    *,
    positive_ids: Tensor,
    candidate_ids: Tensor,
    log_q: Tensor,
    temperature: float,
    clicked: list[set[int]] | None = None,
) -> Tensor:
    """The definition, prediction by prediction, left to autograd; ``clicked`` by the user of each."""
    losses = []
    for i in range(len(user)):
        own = (user[i] * positive[i]).sum() / temperature
        others = [
            (user[i] * candidates[j]).sum() / temperature - log_q[j]
            for j in range(len(candidates))
            if candidate_ids[j] != positive_ids[i] and log_q[j] != torch.inf
            if clicked is None or int(candidate_ids[j]) not in clicked[i]
        ]
        losses.append(torch.logsumexp(torch.stack([own, *others]), 0) - own)
    return torch.stack(losses).sum()


def gradients(loss: Any, given: dict[str, Any], **options: Any) -> list[Tensor]:
    leaves = {name: given[name].clone().requires_grad_() for name in ("user", "positive", "candidates")}
    value = loss(**(given | leaves), **options)
    # Scaled, so that a backward that forgets the incoming gradient shows.
    return [value.detach(), *torch.autograd.grad(3.0 * value, list(leaves.values()))]


def test_is_cross_entropy_where_every_item_is_once_a_candidate() -> None:
    given = problem()
    table = torch.randn(ITEMS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(2))
    user, ids = given["user"], given["positive_ids"]
    found = sampled_softmax(
        user,
        table[ids],
        table[order],
        positive_ids=ids,
        candidate_ids=order,
        log_q=torch.zeros(ITEMS, dtype=torch.float64),
        temperature=0.7,
        logit_chunk=10**6,
    )
    want = torch.nn.functional.cross_entropy(user @ table.T / 0.7, ids, reduction="sum")
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("logit_chunk", [1, 31, 62, 100, 10**6])
def test_value_and_gradients_are_those_of_the_definition_for_any_chunk(logit_chunk: int) -> None:
    given = problem()
    assert (given["positive_ids"][:, None] == given["candidate_ids"]).any()
    for found, want in zip(
        gradients(sampled_softmax, given, logit_chunk=logit_chunk), gradients(materialised, given), strict=True
    ):
        torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-12)


def test_repeated_candidates_may_be_merged() -> None:
    given = problem()

    def of_merged(candidates: Tensor, candidate_ids: Tensor, log_q: Tensor, **rest: Any) -> Tensor:
        candidates, candidate_ids, log_q = merged(candidates, candidate_ids, log_q)
        assert len(candidate_ids.unique()) == len(candidates) == len(log_q) < 31
        return sampled_softmax(candidates=candidates, candidate_ids=candidate_ids, log_q=log_q, **rest, logit_chunk=100)

    *found, by_candidate = gradients(of_merged, given)
    *want, by_each = gradients(materialised, given)
    torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-12)
    # A row of the table is given what all candidates of its id are.
    by_id = torch.zeros(2, ITEMS, WIDTH, dtype=torch.float64)
    for into, grad in zip(by_id, (by_candidate, by_each), strict=True):
        into.index_add_(0, given["candidate_ids"], grad)
    torch.testing.assert_close(by_id[0], by_id[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("logit_chunk", [31, 100, 10**6])
def test_what_a_user_clicked_is_no_candidate(logit_chunk: int) -> None:
    given = problem()
    users, whose = 4, torch.tensor([3, 0, 0, 2, 3, 3, 0, 2, 2])  # user 1 has no prediction
    # Clicks in no order, with repeats, some of items that are no candidates; every target is clicked.
    clicks = torch.cat([torch.tensor([7, 7, 22, 0, 5, 11]), given["positive_ids"]])
    clicker = torch.cat([torch.tensor([0, 0, 1, 2, 3, 3]), whose])
    excluded = among(given["candidate_ids"], clicks, clicker, users)
    clicked = [{int(i) for i, u in zip(clicks, clicker, strict=True) if u == user} for user in range(users)]
    want = torch.tensor([[int(j) in clicked[user] for j in given["candidate_ids"]] for user in range(users)])
    assert torch.equal(excluded, want)
    assert want.any(1).all()
    found = gradients(sampled_softmax, given, logit_chunk=logit_chunk, excluded=(excluded, whose))
    defined = gradients(materialised, given, clicked=[clicked[user] for user in whose])
    assert (defined[0] - gradients(materialised, given)[0]).abs() > 0.1
    torch.testing.assert_close(found, defined, rtol=1e-11, atol=1e-12)


def test_gradcheck() -> None:
    given = problem(candidates=12)
    tensors = [given[name].requires_grad_() for name in ("user", "positive", "candidates")]
    rest = {name: given[name] for name in ("positive_ids", "candidate_ids", "log_q", "temperature")}
    assert torch.autograd.gradcheck(lambda u, p, c: sampled_softmax(u, p, c, **rest, logit_chunk=30), tensors)


def test_padding_and_collisions_get_no_gradient() -> None:
    given = problem()
    given["positive_ids"] = torch.full((PREDICTIONS,), int(given["candidate_ids"][5]))
    grad = gradients(sampled_softmax, given, logit_chunk=100)[3]
    silent = (given["candidate_ids"] == given["candidate_ids"][5]) | (given["log_q"] == torch.inf)
    assert grad[silent].abs().max() == 0
    assert (grad[~silent].abs().sum(1) > 0).all()


def test_only_padding_costs_nothing() -> None:
    given = problem()
    given["log_q"] = torch.full_like(given["log_q"], torch.inf)
    for value in gradients(sampled_softmax, given, logit_chunk=100):
        assert value.abs().max() == 0


def test_extreme_logits_stay_finite() -> None:
    given = problem()
    given["user"] = given["user"] * 1e4
    for value in gradients(sampled_softmax, given, logit_chunk=100):
        assert torch.isfinite(value).all()


class _Largest(TorchDispatchMode):
    """Records the most elements of any matrix created that is as wide as the candidates are many."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.elements = width, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        new = not any(result.alias_info for result in func._schema.returns)  # candidates.T makes nothing
        if isinstance(out, Tensor) and new and out.ndim == 2 and out.shape[1] == self.width:
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.parametrize(("logit_chunk", "most"), [(10**6, 9 * 31), (100, 3 * 31), (31, 31), (1, 31)])
def test_no_more_logits_at_once_than_allowed(logit_chunk: int, most: int) -> None:
    # A chunk is whole rows: one row even where logit_chunk is smaller.
    with _Largest(31) as largest:
        gradients(sampled_softmax, problem(), logit_chunk=logit_chunk)
    assert largest.elements == most


def test_no_predictions_or_no_candidates() -> None:
    given = problem()
    for name in ("user", "positive", "positive_ids"):
        given[name] = given[name][:0]
    value, user, positive, candidates = gradients(sampled_softmax, given, logit_chunk=100)
    assert value == 0
    assert user.shape == positive.shape == (0, WIDTH)
    assert candidates.abs().max() == 0

    given = problem()
    for name in ("candidates", "candidate_ids", "log_q"):
        given[name] = given[name][:0]
    value, user, *_ = gradients(sampled_softmax, given, logit_chunk=100)
    assert value == 0
    assert user.abs().max() == 0


def test_log_q_makes_the_normaliser_of_skewed_draws_unbiased() -> None:
    """Over many draws the mean of Σ exp(logit − log E[count]) is the full sum; without log Q it is far from it."""
    generator = torch.Generator().manual_seed(0)
    given = problem()
    table = torch.randn(ITEMS, WIDTH, generator=generator, dtype=torch.float64)
    user, ids = given["user"], given["positive_ids"]
    share = torch.arange(1, ITEMS + 1, dtype=torch.float64) ** -1.0
    share = share / share.sum()
    drawn, rounds = 40, 4000

    def others(log_q: Tensor, candidate_ids: Tensor) -> Tensor:
        """Σ over candidates but the positive, from the loss of each prediction: exp(loss) = 1 + Σ / exp(own)."""
        own = (user * table[ids]).sum(1)
        losses = torch.stack(
            [
                sampled_softmax(
                    user[i : i + 1],
                    table[ids[i : i + 1]],
                    table[candidate_ids],
                    positive_ids=ids[i : i + 1],
                    candidate_ids=candidate_ids,
                    log_q=log_q,
                    temperature=1.0,
                    logit_chunk=10**6,
                )
                for i in range(len(user))
            ]
        )
        return (losses.exp() - 1) * own.exp()

    logits = user @ table.T
    full = logits.exp().sum(1) - logits.gather(1, ids[:, None]).exp()[:, 0]
    # All rounds in one call are one draw of rounds times the size.
    candidate_ids = torch.multinomial(share, drawn * rounds, replacement=True, generator=generator)
    corrected = others((rounds * drawn * share).log()[candidate_ids], candidate_ids)
    torch.testing.assert_close(corrected, full, rtol=0.02, atol=0)  # 160,000 draws: a standard error below 0.5 %
    plain = others(torch.full((len(candidate_ids),), rounds * drawn / ITEMS, dtype=torch.float64).log(), candidate_ids)
    assert ((plain - full).abs() / full).max() > 0.2
