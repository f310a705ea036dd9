"""FLOPs of a logged step, against formulas by hand and those of the plan."""

from __future__ import annotations

import pytest

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model, Train
from ppr_dist.model.backbones import sasrec
from ppr_dist.objectives import softmax
from ppr_dist.parallel.step_cost import StepFlops, step_cost, typical

CATALOGUE = Catalogue(items=1000, attributes={"age": 5})
COUNTED = {"users": 16, "targets": 112, "clicks": 16 * 7, "squared": 16 * 7**2}


def test_flops_are_those_that_a_causal_transformer_needs() -> None:
    d, layers, candidates = 16, 3, 64 + 2 * 16
    parts = {
        "sasrec": sasrec.Settings(layers=layers, ffn_multiple=4),
        "softmax": softmax.Settings(uniform_negatives=64, in_batch_per_user=2),
    }
    config = Config(model=Model(dim=d, max_length=10), train=Train(global_batch_size=16), parts=parts)
    weights = layers * (4 + 2 * 4) * d**2
    attention = layers * 6 * d * COUNTED["squared"]
    wanted = 6 * weights * COUNTED["clicks"] + attention + 6 * COUNTED["targets"] * candidates * d
    assert StepFlops(config, CATALOGUE, None)(world_size=1, **COUNTED) == wanted


@pytest.mark.parametrize("method", [None, "ppr-full", "adapter"])
def test_without_attention_they_are_those_of_the_plan(method: str | None) -> None:
    config = Config(model=Model(dim=16, max_length=10, backbone="gru4rec"), train=Train(global_batch_size=32))
    shape = typical(config, CATALOGUE, method, world_size=2, history=8)
    planned = sum(part["flops"] for part in step_cost(config, CATALOGUE, method, shape, "cpu").values())
    flops, counted = StepFlops(config, CATALOGUE, method), COUNTED | {"targets": shape.targets}
    assert flops(world_size=2, **counted) == pytest.approx(planned, rel=1e-3)
    assert flops(world_size=2, **counted | {"clicks": 16 * 8}) > planned
