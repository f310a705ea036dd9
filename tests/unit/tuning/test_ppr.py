"""Prompts: how many, where, and how they begin."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model, Profiles
from ppr_dist.errors import UserError
from ppr_dist.model.profile import ProfileMLP
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.ppr import Prompt
from tests.histories import HISTORIES, ITEMS, batch_of

DIM = 16
TABLE = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(0))


def tuned(method: str = "ppr-light", *, backbone: str = "sasrec", width: int = 8, **prompt: Any) -> SequentialModel:
    """``method`` attached to a model of two layers, with one attribute of ``width``."""
    torch.manual_seed(0)
    config = Config(
        model=Model(backbone=backbone, dim=DIM, max_length=10),
        profiles=Profiles(attribute_dim=width),
        parts={"prompt": Prompt(**prompt)},
    )
    catalogue = Catalogue(items=ITEMS, attributes={"age": 4})
    model = untuned_model(config, catalogue).eval()
    attach(model, method, config, catalogue)
    return model


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokens": 11}, "prompt.tokens 11: more than model.max_length 10"),
        ({"begin": "item-means"}, "prompt.begin item-means: profiles.attribute_dim 8 is not model.dim 16"),
        ({"each_layer": True, "backbone": "gru4rec"}, "prompt.each_layer: backbone gru4rec has no place"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        tuned(**settings)


def test_a_negative_deviation_is_refused() -> None:
    with pytest.raises(UserError, match=r"^prompt\.out_std must be 0 or more"):
        Prompt(out_std=-1.0)


def test_each_layer_has_its_own_rows() -> None:
    """The generator gives two rows for each of two layers."""
    model = tuned(tokens=2, each_layer=True)
    assert isinstance(model.prompt, ProfileMLP)
    assert model.prompt.second.out_features == 2 * 2 * DIM


@pytest.mark.parametrize("std", [0.0, 1e-4, 1.0])
def test_prompts_begin_as_large_as_they_are_asked_to(std: float) -> None:
    model = tuned(out_std=std, hidden=64)
    assert isinstance(model.prompt, ProfileMLP)
    assert float(model.prompt.second.weight.detach().std()) == pytest.approx(std, rel=0.1)
    assert not model.prompt.second.bias.any()


def test_a_constant_prompt_is_the_same_for_every_user_and_is_trained() -> None:
    model, batch = tuned("constant-prompt", tokens=2, each_layer=True), batch_of(HISTORIES)
    profiles = {"profile_encoder": torch.randn(len(HISTORIES), 8)}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trainable["prompt.rows"].shape == (2 * 2 * DIM,)
    assert not any(name.startswith("backbone") for name in trainable)
    user = model(TABLE, batch, profiles).user
    # The encoder begins at 0, so that before any click there is the prompt alone.
    first = user[torch.where(batch.context_lengths == 0)[0]]
    torch.testing.assert_close(first, first[:1].expand_as(first))
    assert first.abs().min() > 0
    (user * torch.linspace(-1, 1, user.numel()).view_as(user)).sum().backward()
    gradient = trainable["prompt.rows"].grad
    assert gradient is not None
    assert gradient.view(4, -1).abs().amax(1).min() > 0
