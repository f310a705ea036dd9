"""The objective ``labels``: loss and gradients against ``F.cross_entropy``, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Loss, Train
from ppr_dist.errors import UserError
from ppr_dist.model.encoded import Encoded
from ppr_dist.objectives.base import Exchanged, Step
from ppr_dist.objectives.labels import Labels, head_name
from ppr_dist.runs import catalogue_for
from tests.multirank.models import ITEMS, LABELS
from tests.settings import collator, parts
from tests.shards import labels_of, random_users

DIM, TEMPERATURE = 6, 0.7
USERS = random_users(30, ITEMS, longest=9, labels=LABELS)


def config(**settings: object) -> Config:
    chosen = Train(objectives=["labels"])
    return Config(loss=Loss(temperature=TEMPERATURE), train=chosen, parts=parts(labels=settings))


def objective(**settings: object) -> Labels:
    return Labels(config(**settings), catalogue_for(config(**settings), ITEMS, {}, labels=LABELS))


@pytest.mark.parametrize("names", [["answer"], ["orders"], ["orders", "answer"], None])
def test_it_is_each_spaces_mean_cross_entropy_and_has_its_gradient(names: list[str] | None) -> None:
    made = objective(names=names)
    chosen = names or ["answer", "orders"]
    batch = collator({"labels": made}, ITEMS)(USERS, epoch=0, step=0, global_users=len(USERS))
    torch.manual_seed(0)
    heads = {name: head.double() for name, head in made.heads(DIM).items()}
    assert list(heads) == [head_name(name) for name in chosen]
    vectors = torch.randn(len(USERS), DIM, dtype=torch.float64, requires_grad=True)  # of USERS, in their order
    place = [USERS.index.tolist().index(user) for user in batch.users.tolist()]
    encoded = Encoded(vectors, None, {name: head(vectors[place]) for name, head in heads.items()})
    exchanged = Exchanged(made.count(batch)[None], made.to_exchange(batch)[None])
    step = Step(batch=batch, items=vectors, encoded=encoded, exchanged=exchanged, started=None)
    loss = made.sum(step) / made.count(batch)
    gradients = torch.autograd.grad(loss, [vectors, *(head.weight for head in heads.values())])

    wanted = torch.zeros((), dtype=torch.float64)
    for name in chosen:
        pairs = [(row, label) for row in range(len(USERS)) for label in labels_of(USERS, name, row)]
        rows, labels = (list(each) for each in zip(*pairs, strict=True))
        weight = heads[head_name(name)].weight
        wanted = wanted + F.cross_entropy(vectors[rows] @ weight.T / TEMPERATURE, torch.tensor(labels))
    torch.testing.assert_close(loss, wanted)
    expected = torch.autograd.grad(wanted, [vectors, *(head.weight for head in heads.values())])
    for found, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, right)

    # Who has no label contributes nothing.
    without = np.all([USERS.labels[name].lengths == 0 for name in chosen], axis=0)
    assert without.any()
    assert not gradients[0][torch.from_numpy(without)].any()
    assert gradients[0][torch.from_numpy(~without)].any(dim=1).all()


def test_of_users_without_a_label_the_loss_is_0_and_has_a_gradient() -> None:
    made = objective()
    users = USERS.take(np.flatnonzero(np.all([each.lengths == 0 for each in USERS.labels.values()], axis=0)))
    batch = collator({"labels": made}, ITEMS)(users, epoch=0, step=0, global_users=len(users))
    heads, vectors = made.heads(DIM), torch.ones(len(users), DIM)
    encoded = Encoded(vectors, None, {name: head(vectors) for name, head in heads.items()})
    exchanged = Exchanged(made.count(batch)[None], made.to_exchange(batch)[None])
    loss = made.sum(Step(batch=batch, items=vectors, encoded=encoded, exchanged=exchanged, started=None))
    loss.backward()
    assert float(loss.detach()) == 0
    for head in heads.values():
        assert head.weight.grad is not None
        assert not head.weight.grad.any()


def test_what_it_cannot_predict_is_refused_in_one_line() -> None:
    for names, there, said in (
        (["orders", "age"], LABELS, "labels.names: orders, age; the data has label spaces answer, orders"),
        ([], LABELS, "labels.names: none; the data has label spaces answer, orders"),
        (None, (), "labels.names: none; the data has label spaces none"),
    ):
        with pytest.raises(UserError, match=f"^{said}$"):
            catalogue_for(config(names=names), ITEMS, {}, labels=there)
    space = dataclasses.replace(LABELS[0], size=1)
    with pytest.raises(UserError, match="has 1 label; it takes 2 or more"):
        Labels(config(), Catalogue(items=ITEMS, attributes={}, labels=(space,)))
