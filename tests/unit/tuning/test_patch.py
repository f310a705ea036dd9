"""Patches: what they add, serial and parallel, and where."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model
from ppr_dist.tuning.patch import Patched, Settings
from tests.histories import HISTORIES, ITEMS, batch_of


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


@pytest.mark.parametrize("insertion", ["serial", "parallel"])
def test_a_patch_adds_nothing_before_it_is_trained_and_then_what_its_formula_says(insertion: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(12, 8), torch.randn(5, 12)
    patched = Patched(layer, 8, 3, parallel=insertion == "parallel")
    assert torch.equal(patched(x), layer(x))
    for parameter in patched.patch.parameters():
        nn.init.normal_(parameter)
    down, up, h = patched.patch.down, patched.patch.up, layer(x)
    into = x if insertion == "parallel" else h
    # Once what the layer gives: added twice, a residual would grow with every patch.
    expected = h + gelu(into @ down.weight.T + down.bias) @ up.weight.T + up.bias
    torch.testing.assert_close(patched(x), expected)


@pytest.mark.parametrize("insertion", ["serial", "parallel"])
@pytest.mark.parametrize(("backbone", "places"), [("nextitnet", ("first", "second")), ("sasrec", ("out", "down"))])
def test_there_are_two_in_every_block(backbone: str, places: tuple[str, ...], insertion: str) -> None:
    config = Config(
        model=Model(backbone=backbone, dim=16, max_length=10),
        parts={"patch": Settings(insertion=insertion)},  # type: ignore[arg-type]
    )
    catalogue = Catalogue(items=ITEMS, attributes={})
    model = untuned_model(config, catalogue).eval()
    table = torch.randn(ITEMS, 16)
    before = model(table, batch_of(HISTORIES), {}).user
    attach(model, "patch", config, catalogue)
    model.eval()
    found = [name for name, module in model.backbone.named_modules() if isinstance(module, Patched)]
    blocks = dict.fromkeys(name.rpartition(".")[0] for name in found)
    assert found == [f"{block}.{place}" for block in blocks for place in places]
    assert torch.equal(model(table, batch_of(HISTORIES), {}).user, before)
    with torch.no_grad():
        for name in found:
            patch = model.backbone.get_submodule(name).patch
            assert isinstance(patch, nn.Module)
            for parameter in patch.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
            after = model(table, batch_of(HISTORIES), {}).user
            assert (after - before).abs().max() > 1e-4, name
            before = after
