"""What ``plan`` says a step sends and computes, against what two ranks send and compute in one."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from ppr_dist.catalogue import Catalogue
from ppr_dist.parallel.step_cost import step_cost, typical
from tests.multirank import models
from tests.multirank.measured import measured
from tests.ranks import run_ranks


@pytest.mark.parametrize("objective", ["softmax", "full_softmax", "bce"])
@pytest.mark.parametrize("method", [None, "ppr-full"])
def test_a_step_sends_and_computes_what_the_formulas_say(objective: str, method: str | None) -> None:
    config = models.small_config(objective)
    ranks = run_ranks(measured, 2, config, method)
    shapes = [rank.shape for rank in ranks]
    if objective == "full_softmax":  # its targets are padded to the longest rank's
        most = max(shape.targets for shape in shapes)
        shapes = [dataclasses.replace(shape, targets=most) for shape in shapes]
    cost = [step_cost(config, models.CATALOGUE, method, shape, "cpu") for shape in shapes]
    used = [objective] if method is None else [objective, "contrastive"]
    assert list(cost[0]) == [
        "ids and lengths",
        "looked-up vectors",
        "item encoders",
        *used,
        "backbone",
        "dense gradients",
    ]

    def said(*parts: str) -> float:
        return sum(c[part]["bytes"] for c in cost for part in parts)

    got = Counter[str]()
    for rank in ranks:
        got.update(rank.received)
    # Beside what objectives tell each other, full_softmax asks for the most targets of a rank.
    told = 8 * sum(rank.told for rank in ranks)
    assert got["all_gather int"] == pytest.approx(told, abs=2 * 8)
    # Half of a rank's ids are its own on average alone.
    vectors = said("looked-up vectors", *used) - told
    assert got["all_to_all float"] + got["all_gather float"] == pytest.approx(vectors, rel=0.05)
    assert got["all_reduce float"] == pytest.approx(said("dense gradients"), abs=2 * 64)
    # With ids go some numbers by which ranks tell each other sizes.
    assert said("ids and lengths") <= got["all_to_all int"] + 64 <= said("ids and lengths") + 2 * 128
    for rank, of_rank in zip(ranks, cost, strict=True):
        # Products with a target's own negatives are done element by element, which is not counted.
        products = sum(part["flops"] for name, part in of_rank.items() if name != "bce")
        assert rank.flops == pytest.approx(products, rel=0.02)


def test_what_grows_with_the_ranks_is_seen() -> None:
    # Twice the ranks and users: what is per user stays, what goes to all ranks doubles.
    config, catalogue = models.small_config("softmax"), Catalogue(items=10**6, attributes=models.ATTRIBUTES)
    found = []
    for ranks in (64, 128):
        grown = dataclasses.replace(config, train=dataclasses.replace(config.train, global_batch_size=32 * ranks))
        shape = typical(grown, catalogue, "ppr-full", ranks, 8)
        assert (shape.users, shape.targets, shape.looked_up) == (32, 256, 32 * 8 + 1)
        assert (shape.views, shape.rows) == (3, round(32 * (7 + 7 + 0.8 * 7 + 3)))
        found.append(step_cost(grown, catalogue, "ppr-full", shape, "cuda"))
    few, many = found
    ratio = {part: many[part]["bytes"] / max(few[part]["bytes"], 1) for part in few}
    assert ratio["ids and lengths"] == pytest.approx(1, rel=0.02)
    assert ratio["contrastive"] == pytest.approx(2, rel=0.02)
    assert ratio["looked-up vectors"] == pytest.approx(1, rel=0.02)
    assert ratio["dense gradients"] == pytest.approx(1, rel=0.02)
    assert many["backbone"]["flops"] == few["backbone"]["flops"]
