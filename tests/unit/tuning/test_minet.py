"""MiNet against a loop over users and contexts, in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.batch import Batch, UserLabels
from ppr_dist.build_model import attach, untuned_model
from ppr_dist.config import Config, Model, Profiles
from ppr_dist.data.manifest import LabelSpace
from ppr_dist.errors import UserError
from ppr_dist.model.sequential import SequentialModel
from tests.histories import HISTORIES, ITEMS, batch_of
from tests.multirank.models import CATALOGUE
from tests.settings import parts

DIM, SOURCE_ITEMS, TARGET, SOURCE = 8, 11, 3, 4
SOURCES = [[5, 2], [], [7, 0, 3, 9, 1, 4], [10], [], [6, 8, 2]]
"""Source-domain clicks of each user of HISTORIES; the last has no others."""
ORDERS = LabelSpace(name="orders", id_type="int64", size=SOURCE_ITEMS, values="", users=4, most=6)
ANSWER = dataclasses.replace(ORDERS, name="answer", size=3)
SMALL = dataclasses.replace(CATALOGUE, items=ITEMS, known_labels=(ANSWER, ORDERS))
TABLE = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def batch(sources: list[list[int]] = SOURCES) -> Batch:
    values = torch.tensor([item for each in sources for item in each], dtype=torch.int64)
    labels = UserLabels(values, torch.tensor([len(each) for each in sources]))
    return dataclasses.replace(batch_of(HISTORIES), labels={"orders": labels})


def config(**minet: Any) -> Config:
    small = {"target_clicks": TARGET, "source_clicks": SOURCE, "attention": 5, "hidden": 6}
    return Config(
        model=Model(dim=DIM, max_length=8, dropout=0.0),
        profiles=Profiles(attribute_dim=3),
        parts=parts(minet=small | minet),
    )


def build(given: Config, catalogue: Any = SMALL) -> SequentialModel:
    torch.manual_seed(1)
    model = untuned_model(given, catalogue)
    attach(model, "minet", given, catalogue)
    with torch.no_grad():
        for parameter in model.user_model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.double()


PROFILES = torch.randn(len(HISTORIES), 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def layers(part: nn.Module, x: Tensor) -> Tensor:
    """Linear layers with ReLU between, by their weights."""
    linear = [module for module in part.children() if isinstance(module, nn.Linear)]
    for n, layer in enumerate(linear):
        x = layer.weight @ (F.relu(x) if n else x) + layer.bias
    return x


def pooled(attention: Any, clicks: Tensor, query: Tensor, profile: Tensor) -> Tensor:
    scores = []
    for click in clicks:
        moved = click if attention.transfer is None else attention.transfer.weight @ click
        x = torch.cat([click, moved * query])
        hidden = attention.of_click.weight @ x + attention.of_click.bias
        hidden = hidden + attention.of_user.weight @ torch.cat([query, profile])
        scores.append(attention.out.weight[0] @ F.relu(hidden))
    if not scores:
        return torch.zeros(DIM, dtype=torch.float64)
    weights = [score.exp() for score in scores]
    return sum(w * click for w, click in zip(weights, clicks, strict=True)) / sum(weights)  # type: ignore[return-value]


def by_hand(model: SequentialModel, items: Tensor, profiles: Tensor, sources: list[list[int]]) -> Tensor:
    """One user and context after another."""
    net, found = model.user_model, []
    for user, history in enumerate(HISTORIES):
        for context in range(len(history) + 1):
            clicks = items[history[max(0, context - TARGET) : context]]
            query = clicks[-1] if context else torch.zeros(DIM, dtype=torch.float64)
            interests = {
                "profile": profiles[user],
                "target": pooled(net.target_attention, clicks, query, profiles[user]),
                "source": pooled(net.source_attention, net.source_items[sources[user][:SOURCE]], query, profiles[user]),
            }
            seen = torch.cat([query, *interests.values()])
            gated = [layers(net.gates[name], seen).exp() * interest for name, interest in interests.items()]
            found.append(layers(net.net, torch.cat([query, *gated])))
    return torch.stack(found)


def test_user_vectors_and_gradients_are_those_of_a_loop_over_users() -> None:
    model, items = build(config()), TABLE.clone().requires_grad_()
    assert model.user_model.source == "orders"  # the largest
    found = model(items, batch(), {"minet": PROFILES}).user
    want = by_hand(model, items, PROFILES, SOURCES)
    torch.testing.assert_close(found, want.float(), rtol=1e-5, atol=1e-6)
    weight = torch.linspace(-1, 1, want.numel(), dtype=torch.float64).view_as(want)
    asked = [items, *model.user_model.parameters()]
    gradients = [torch.autograd.grad((user.double() * weight).sum(), asked) for user in (found, want)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert one.abs().max() > 0


@pytest.mark.parametrize("known", ["profile", "source", "neither"])
def test_what_is_not_known_of_a_user_leaves_vectors_and_gradients_numbers(known: str) -> None:
    catalogue = SMALL if known != "source" else dataclasses.replace(SMALL, attributes={})
    profiles = {"minet": PROFILES} if known == "profile" else {"minet": 0 * PROFILES} if known == "neither" else {}
    model = build(config(), catalogue)
    given = batch() if known == "source" else batch([[] for _ in SOURCES])
    user = model(TABLE, given, profiles).user
    user.square().sum().backward()
    gradients = [parameter.grad for parameter in model.user_model.parameters()]
    assert torch.isfinite(user).all()
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    if known != "source":
        assert model.user_model.source_items.grad.abs().max() == 0
        without = model(TABLE, batch_of(HISTORIES), profiles).user  # of a batch without labels
        assert torch.equal(user, without)


def test_source_clicks_move_their_users_alone_and_those_beyond_the_first_do_not() -> None:
    model = build(config())
    before = model(TABLE, batch(), {"minet": PROFILES}).user
    after = model(TABLE, batch([[5, 3], [], [7, 0, 3, 9, 8, 8], [10], [], [6, 8, 2]]), {"minet": PROFILES}).user
    theirs = batch().user_rows == 0
    assert not torch.equal(before[theirs], after[theirs])
    assert torch.equal(before[~theirs], after[~theirs])


def test_without_a_label_space_there_is_no_source_domain() -> None:
    alone = dataclasses.replace(SMALL, known_labels=())
    model = build(config(), alone)
    assert not any("source" in name for name, _ in model.user_model.named_parameters())
    user = model(TABLE, batch(), {"minet": PROFILES}).user
    assert torch.equal(user, model(TABLE, batch_of(HISTORIES), {"minet": PROFILES}).user)


def test_the_flops_are_those_of_its_products() -> None:
    model = build(config())
    counted = 0

    def count(layer: nn.Linear, given: tuple[Tensor], _: Tensor) -> None:
        nonlocal counted
        counted += 2 * given[0].numel() * layer.weight.shape[0]

    for module in model.user_model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(count)
    user = model(TABLE, batch(), {"minet": PROFILES}).user
    assert model.user_model.flops(len(user)) == 3 * counted


@pytest.mark.parametrize(
    ("given", "catalogue", "message"),
    [
        ({"source": "views"}, SMALL, "minet.source 'views': no label space to read; there is answer, orders"),
        ({}, dataclasses.replace(SMALL, known_labels=(dataclasses.replace(ORDERS, size=50_001),)), "50,001 items"),
    ],
)
def test_what_cannot_be_read_is_refused(given: dict[str, Any], catalogue: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(config(**given), catalogue)
