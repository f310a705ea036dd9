"""FLOPs of a logged step are those of the plan's formulas."""

from __future__ import annotations

import dataclasses

import pytest

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model, Train
from ppr_dist.parallel.step_cost import StepFlops, step_cost, typical


@pytest.mark.parametrize("method", [None, "ppr-full", "adapter"])
@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec"])
def test_flops_of_what_was_counted_are_those_of_the_plan(method: str | None, backbone: str) -> None:
    config = Config(model=Model(dim=16, max_length=10, backbone=backbone), train=Train(global_batch_size=32))
    catalogue = Catalogue(items=1000, attributes={"age": 5})
    shape = typical(config, catalogue, method, world_size=2, history=8)
    planned = sum(part["flops"] for part in step_cost(config, catalogue, method, shape, "cpu").values())
    counted = {"users": 16, "targets": shape.targets, "clicks": 16 * 7, "squared": 16 * 7**2}
    flops = StepFlops(config, catalogue, method)
    assert flops(world_size=2, **counted) == pytest.approx(planned, rel=1e-3)
    assert flops(world_size=2, **counted | {"clicks": 16 * 8}) > planned
    deeper = dataclasses.replace(config, model=dataclasses.replace(config.model, dim=32))
    assert StepFlops(deeper, catalogue, method)(world_size=2, **counted) > planned
