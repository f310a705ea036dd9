"""Last layer: which parameters are trained."""

from __future__ import annotations

import pytest

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model
from ppr_dist.errors import UserError
from ppr_dist.model.backbones import BACKBONES, Backbone


def trained(backbone: str) -> set[str]:
    config, catalogue = Config(model=Model(backbone=backbone)), Catalogue(items=10, attributes={"age": 4})
    model = untuned_model(config, catalogue)
    attach(model, "last-layer", config, catalogue)
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_of_sasrec_the_last_layer_and_its_norm_and_what_is_new() -> None:
    found = trained("sasrec")
    assert {name.split(".")[0] for name in found} == {"backbone", "profile_encoder"}
    of_backbone = {".".join(name.split(".")[1:3]) for name in found if name.startswith("backbone")}
    assert of_backbone == {"layers.1", "norm.weight", "norm.bias"}


def test_a_backbone_without_a_last_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mean(Backbone):
        pass

    monkeypatch.setitem(BACKBONES, "mean", Mean)
    with pytest.raises(UserError, match="backbone mean has no last layer"):
        trained("mean")
