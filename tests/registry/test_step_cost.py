"""What ``plan`` says that a step of each part receives and computes, against what two ranks receive and compute."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.step_cost import step_cost
from tests.multirank import measured
from tests.multirank.measured import Measured
from tests.multirank.models import catalogue_for
from tests.ranks import run_ranks
from tests.registry.cases import CASES, Case, Once, of_each, result


def of_case(context: DistributedContext, case: Case) -> Measured:
    return measured.measured(context, case.config(), case.method)


@pytest.fixture(scope="module")
def ranks(once: Once) -> list[dict[str, Any]]:
    return once("measured-steps", lambda: run_ranks(of_each, 2, list(CASES), of_case, timeout=280))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_a_step_receives_and_computes_what_plan_says(name: str, ranks: list[dict[str, Any]]) -> None:
    case, found = CASES[name], result(ranks, name)
    config = case.config()
    most = max(rank.shape.targets for rank in found)  # what is gathered by target is padded to it
    shapes = [dataclasses.replace(rank.shape, targets=most, rows=rank.padded_rows) for rank in found]
    costs = [step_cost(config, catalogue_for(config), case.method, shape, "cpu") for shape in shapes]
    said = sum(part["bytes"] for cost in costs for part in cost.values())
    received = sum(sum(rank.received.values()) for rank in found)
    if case.method is None:
        assert received == pytest.approx(said, rel=0.05)
    else:  # said as if all were trainable
        assert 0.3 * said < received < 1.05 * said
    for cost, rank in zip(costs, found, strict=True):
        # What is done element by element is not counted, and what is frozen has no gradient.
        assert rank.flops < 1.05 * sum(part["flops"] for part in cost.values())
