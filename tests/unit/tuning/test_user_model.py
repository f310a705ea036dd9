"""Methods that make user vectors by a network of their own: what they cannot start from, and cannot learn by."""

from __future__ import annotations

import dataclasses

import pytest

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.config import Config, Model, Train
from ppr_dist.errors import UserError
from ppr_dist.objectives import OBJECTIVES
from tests.multirank.models import CATALOGUE

SMALL = dataclasses.replace(CATALOGUE, items=40)
METHODS = ("melu", "minet")


@pytest.mark.parametrize("method", METHODS)
def test_a_backbone_that_masks_is_refused(method: str) -> None:
    given = Config(model=Model(backbone="bert4rec", dim=8, max_length=8))
    with pytest.raises(UserError, match=f"{method}: backbone bert4rec"):
        attach(untuned_model(given, SMALL), method, given, SMALL)


@pytest.mark.parametrize("method", METHODS)
def test_objectives_that_score_no_items_are_refused_and_may_stand_beside_one_that_does(method: str) -> None:
    none, one = (Config(train=Train(objectives=names)) for names in (["cl4srec", "clue"], ["clue", "bpr"]))
    with pytest.raises(UserError, match=f"{method}: of train.objectives cl4srec, clue none scores items"):
        attach(untuned_model(none, SMALL), method, none, SMALL)
    attach(untuned_model(one, SMALL), method, one, SMALL)


def test_which_objectives_score_items() -> None:
    assert {name for name, objective in OBJECTIVES.items() if not objective.scores_items} == {
        *("attribute", "labels", "contrastive", "cl4srec", "clue"),
    }
