"""Continual learning: whose each weight is, and that no task forgets; beside fine-tuning one task after the other."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model, Train
from ppr_dist.errors import UserError
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.parallel.step_cost import step_cost, typical
from ppr_dist.tuning.continual import Owned, Settings, last_task, owned_weights, serve_from
from tests.histories import batch_of

ITEMS, DIM, KEEP = 40, 16, 0.3
TABLE = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(0))
CATALOGUE = Catalogue(items=ITEMS, attributes={})
CONFIG = Config(model=Model(dim=DIM, max_length=10, dropout=0.0))


def histories(task: int) -> list[list[int]]:
    """Each task has a successor of its own for every item."""
    after = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(task)).tolist()
    found = []
    for first in range(ITEMS):
        history = [first]
        for _ in range(5):
            history.append(after[history[-1]])
        found.append(history)
    return found


def states(model: SequentialModel, task: int) -> Tensor:
    return model(TABLE, batch_of(histories(task)), {}).user


def loss(model: SequentialModel, task: int) -> Tensor:
    """Of the next items, over the whole catalogue."""
    after = [state[1:-1] for state in states(model, task).split(7)]
    targets = torch.tensor([history[1:] for history in histories(task)]).flatten()
    return F.cross_entropy(torch.cat(after) @ TABLE.T, targets)


def train(model: SequentialModel, task: int, steps: int = 60) -> SequentialModel:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, task).backward()
        optimizer.step()
    return model


def tuned(model: SequentialModel, method: str, keep: float | None = None) -> SequentialModel:
    model = copy.deepcopy(model)
    attach(model, method, dataclasses.replace(CONFIG, parts={"continual": Settings(keep=keep)}), CATALOGUE)
    return model


@functools.cache
def pretrained() -> SequentialModel:
    """Not to be changed."""
    torch.manual_seed(3)
    return train(untuned_model(CONFIG, CATALOGUE), 1)


@pytest.fixture(scope="module")
def chain() -> list[SequentialModel]:
    """The model after the first task, after the second, and after the third."""
    model = train(tuned(pretrained(), "continual", KEEP), 1, 30)
    found = [copy.deepcopy(model)]
    for task in (2, 3):
        model = train(tuned(model, "continual"), task)
        model = train(tuned(model, "continual", KEEP), task, 30)
        found.append(copy.deepcopy(model))
    return found


def test_predictions_of_earlier_tasks_are_the_same_to_the_byte_after_each_later_one(
    chain: list[SequentialModel],
) -> None:
    with torch.no_grad():
        for number, model in enumerate(chain):
            before = states(model, number + 1)
            served = copy.deepcopy(model)
            for later in chain[number + 1 :]:
                for weight, _ in owned_weights(served):
                    weight.fill_(torch.nan)  # of which nothing is to be read
                serve_from(served, copy.deepcopy(later))
                assert torch.equal(states(served, number + 1), before)
                assert not torch.equal(states(later, number + 1), before)


def test_each_task_learns_and_one_after_the_other_fine_tuning_forgets(chain: list[SequentialModel]) -> None:
    with torch.no_grad():
        first, *_ = continual = [float(loss(model, number + 1)) for number, model in enumerate(chain)]
    model = pretrained()
    for task in (2, 3):
        model = train(tuned(model, "fine-tune"), task)
    with torch.no_grad():
        forgotten, untrained = float(loss(model, 1)), float(loss(untuned_model(CONFIG, CATALOGUE), 1))
    assert max(continual) < 0.7 * untrained
    assert forgotten > 2 * first


def test_masks_are_disjoint_and_their_counts_exact(chain: list[SequentialModel]) -> None:
    for weight, owned in owned_weights(chain[-1]):
        free = weight.numel()
        for task in (1, 2, 3):
            kept = free - round((1 - KEEP) * free)
            assert int((owned.owner == task).sum()) == kept
            free -= kept
        assert int((owned.owner == 0).sum()) == free
        assert not weight[owned.owner == 0].any()
    for before, after in itertools.pairwise(chain):
        for (_, old), (_, new) in zip(owned_weights(before), owned_weights(after), strict=True):
            assert torch.equal(new.owner[old.owner > 0], old.owner[old.owner > 0])


def test_the_first_mask_is_that_of_torchs_own_pruning() -> None:
    model = pretrained()
    pruned = tuned(model, "continual", KEEP)
    model, names = copy.deepcopy(model), model.backbone.projections()
    assert len(names) == 8
    for name, (weight, owned) in zip(names, owned_weights(pruned), strict=True):
        layer = model.backbone.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        torch_prune.l1_unstructured(layer, "weight", amount=1 - KEEP)
        assert torch.equal(owned.owner.bool(), layer.weight_mask.bool())
        assert torch.equal(weight, layer.weight)


def test_pruned_and_trained_once_more_it_is_better_than_pruned_alone() -> None:
    model = pretrained()
    with torch.no_grad():
        pruned = float(loss(tuned(model, "continual", KEEP), 1))
    assert float(loss(train(tuned(model, "continual", KEEP), 1, 30), 1)) < 0.9 * pruned


def test_an_element_that_is_not_the_tasks_has_no_gradient_and_the_sum_is_the_papers() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, requires_grad=True)
    owned = Owned(weight)
    owned.owner = torch.randint(0, 3, (6, 5), dtype=torch.int8)
    others = (owned.owner > 0).float()
    papers = (weight * others).detach() + weight * (1 - others)
    assert torch.equal(owned(weight), papers)
    x = torch.randn(6, 5)
    (found,) = torch.autograd.grad((owned(weight) * x).sum(), weight)
    (want,) = torch.autograd.grad((papers * x).sum(), weight)
    assert torch.equal(found, want)
    owned.learning = 2
    (found,) = torch.autograd.grad((owned(weight) * x).sum(), weight)
    assert torch.equal(found, x * (owned.owner == 2))


def test_weight_decay_is_refused() -> None:
    config = dataclasses.replace(CONFIG, train=Train(weight_decay=0.01))
    with pytest.raises(UserError, match="weight_decay"):
        attach(untuned_model(CONFIG, CATALOGUE), "continual", config, CATALOGUE)


def test_a_plan_sees_shapes_alone() -> None:
    config = dataclasses.replace(CONFIG, parts={"continual": Settings(keep=KEEP)})
    shape = typical(config, CATALOGUE, "continual", 2, 7.0)
    assert step_cost(config, CATALOGUE, "continual", shape, "cpu")["backbone"]["flops"] > 0


def test_the_share_is_above_0_and_at_most_1() -> None:
    for keep in (0.0, 1.5):
        with pytest.raises(UserError, match=r"continual\.keep"):
            Settings(keep=keep)
    assert last_task(tuned(pretrained(), "continual", 1.0)) == 1
