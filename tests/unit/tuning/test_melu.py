"""MeLU against loops over users with torch's own autograd, in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.config import Config, Loss, Model, Profiles
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.runs import table_sizes
from tests.histories import HISTORIES, ITEMS, batch_of
from tests.multirank.models import CATALOGUE
from tests.settings import parts

DIM, TAU = 8, 0.5
SMALL = dataclasses.replace(CATALOGUE, items=ITEMS)
BATCH = batch_of(HISTORIES)
TABLE = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def config(*, normalize: bool = False, **melu: Any) -> Config:
    return Config(
        model=Model(dim=DIM, max_length=8, dropout=0.0, normalize=normalize),
        profiles=Profiles(attribute_dim=3),
        loss=Loss(temperature=TAU),
        parts=parts(melu={"hidden": 5, "references": 7} | melu),
    )


def build(given: Config) -> tuple[SequentialModel, Tensor, Tensor]:
    """The model, items with the reference items behind them, and profiles."""
    torch.manual_seed(1)
    model = untuned_model(given, SMALL)
    attach(model, "melu", given, SMALL)
    references = torch.tensor(table_sizes(given, SMALL, "melu").reference_items)
    assert 3 < len(references) <= 7
    profiles = torch.randn(len(HISTORIES), 6, dtype=torch.float64)
    return model.double(), torch.cat([TABLE, TABLE[references]]).requires_grad_(), profiles


def by_hand(
    model: SequentialModel, items: Tensor, profiles: Tensor, *, alpha: float, steps: int, normalize: bool
) -> Tensor:
    """One user and context after another."""
    found = []
    items = F.normalize(items, dim=1) if normalize else items
    for user, history in enumerate(HISTORIES):
        for context in range(len(history) + 1):
            clicks = items[history[:context]]
            mean = clicks.mean(0) if context else torch.zeros(DIM, dtype=torch.float64)
            x = torch.cat([profiles[user], mean])

            def u(weights: list[Tensor], x: Tensor = x) -> Tensor:
                hidden = F.relu(F.linear(x, weights[0], weights[1]))
                out = F.linear(F.relu(F.linear(hidden, weights[2], weights[3])), weights[4], weights[5])
                return F.normalize(out, dim=0) if normalize else out

            weights = list(model.user_model.net.parameters())
            for _ in range(steps if context else 0):
                fixed = [weight.detach().requires_grad_() for weight in weights]
                logits = torch.cat([clicks.detach(), items[ITEMS:].detach()]) @ u(fixed, x.detach()) / TAU
                loss = torch.logsumexp(logits[context:], 0) - logits[:context].mean()
                gradients = torch.autograd.grad(loss, fixed)
                weights = [w - alpha * g for w, g in zip(weights, gradients, strict=True)]
            found.append(u(weights))
    return torch.stack(found)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("normalize", [False, True])
def test_user_vectors_and_gradients_are_those_of_a_loop_over_users(steps: int, normalize: bool) -> None:
    model, items, profiles = build(config(normalize=normalize, local_lr=0.3, local_steps=steps))
    found = model(items, BATCH, {"melu": profiles}).user
    want = by_hand(model, items, profiles, alpha=0.3, steps=steps, normalize=normalize)
    torch.testing.assert_close(found, want.float(), rtol=1e-5, atol=1e-6)
    weight = torch.linspace(-1, 1, want.numel(), dtype=torch.float64).view_as(want)
    asked = [items, *model.user_model.parameters()]
    gradients = [torch.autograd.grad((user.double() * weight).sum(), asked) for user in (found, want)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_is_known_of_a_user_moves_their_vector_and_nothing_moves_it_without_clicks() -> None:
    model, items, profiles = build(config(local_lr=0.3))
    adapted = model(items, BATCH, {"melu": profiles}).user
    model.user_model.settings = dataclasses.replace(model.user_model.settings, local_steps=0)
    plain = model(items, BATCH, {"melu": profiles}).user
    without = BATCH.context_lengths == 0
    assert torch.equal(adapted[without], plain[without])
    assert (adapted - plain)[~without].abs().amax(1).min() > 1e-4
