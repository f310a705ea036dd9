"""What holds of every tuning method: where it starts, what it trains, and what it leaves as it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.errors import UserError
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.trainer import train_step
from ppr_dist.tuning import TUNING_METHODS
from tests.histories import HISTORIES, batch_of
from tests.histories import ITEMS as CLICKED
from tests.multirank.models import CATALOGUE, whole_tables
from tests.ranks import run_ranks
from tests.registry.cases import Case, Once, build, fetched, of_each, result

TABLE = torch.randn(CLICKED, 16, generator=torch.Generator().manual_seed(0))
each_method = pytest.mark.parametrize("method", TUNING_METHODS)


@each_method
def test_step_0_is_the_pretrained_model_where_it_says_so(method: str) -> None:
    config = Case(method=method).config()
    torch.manual_seed(1)
    model, profiles = untuned_model(config, CATALOGUE).eval(), {}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
        before = model(TABLE, batch_of(HISTORIES), profiles).user
        kept = {name: parameter.clone() for name, parameter in model.state_dict().items()}
        attach(model, method, config, CATALOGUE)
        model.eval()
        width = len(CATALOGUE.profile) * config.profiles.attribute_dim
        profiles = {use: torch.randn(len(HISTORIES), width) for use in TUNING_METHODS[method].profile_uses}
        after = model(TABLE, batch_of(HISTORIES), profiles).user
    if TUNING_METHODS[method].starts_as_pretrained:
        assert torch.equal(after, before)
    # Whatever is attached, every parameter that was loaded is still there, as it was.
    values = list(model.state_dict().values())
    for name, parameter in kept.items():
        assert any(parameter.shape == each.shape and torch.equal(parameter, each) for each in values), name


@each_method
def test_without_profiles_it_works_or_is_refused_in_one_line(method: str) -> None:
    config, nothing = Case(method=method).config(), Catalogue(items=CATALOGUE.items, attributes={})
    model, refused = untuned_model(config, nothing), None
    try:
        attach(model, method, config, nothing)
    except UserError as error:
        refused = str(error)
    if refused is None:
        assert model.profile_encoder is None
        assert model(TABLE, batch_of(HISTORIES), {}).user.shape == (sum(len(items) + 1 for items in HISTORIES), 16)
    else:
        assert "\n" not in refused


def before_and_after(context: DistributedContext, case: Case) -> dict[str, Any]:
    """Dense parameters and tables before and after some steps, and which of the parameters are trainable."""
    built = build(context, case)
    module, found = built.parallel.engine.module, []
    for steps in (range(0), range(3)):
        for each in fetched(context, built, steps):
            train_step(built.parallel, each, built.objectives)
        dense = {name: parameter.detach().numpy().copy() for name, parameter in module.named_parameters()}
        found.append((dense, whole_tables(built.parallel)))
    trainable = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {"before": found[0], "after": found[1], "trainable": trainable}


def with_items_either_way(context: DistributedContext, case: Case) -> dict[str, dict[str, Any]]:
    """:func:`before_and_after` with items frozen or not as the method has it, and the other way."""
    assert case.method
    other = dataclasses.replace(case, train_items=not TUNING_METHODS[case.method].trains_items)
    return {"its own": before_and_after(context, case), "other": before_and_after(context, other)}


@pytest.fixture(scope="module")
def moved(once: Once) -> list[dict[str, Any]]:
    names = [f"method {method}" for method in TUNING_METHODS]
    return once("moved", lambda: run_ranks(of_each, 1, names, with_items_either_way, timeout=280))


@each_method
@pytest.mark.parametrize("items", ["its own", "other"])
def test_what_is_frozen_stays_and_what_is_trainable_moves(items: str, method: str, moved: list[dict[str, Any]]) -> None:
    (both,) = result(moved, f"method {method}")
    found, items_move = both[items], TUNING_METHODS[method].trains_items == (items == "its own")
    (dense, tables), (dense_after, tables_after) = found["before"], found["after"]
    assert dense.keys() == dense_after.keys()
    for name, value in dense.items():
        assert np.array_equal(dense_after[name], value) == (name not in found["trainable"]), name
    for name, value in tables.items():
        frozen = name == "item" and not items_move
        assert np.array_equal(tables_after[name], value) == frozen, name
    assert tables.keys() > {"item"}
