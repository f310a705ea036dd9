"""Adapters: where they stand, how large they are, and what is trained."""

from __future__ import annotations

import torch

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model
from ppr_dist.model.backbones.sasrec import Settings as SASRec
from ppr_dist.parallel.step_cost import step_cost, typical
from ppr_dist.tuning import TUNING_METHODS
from ppr_dist.tuning.adapter import Adapted
from ppr_dist.tuning.adapter import Settings as Adapter


def test_two_per_layer_alone_are_trained_and_their_size_is_that_of_two_linear_layers() -> None:
    dim, bottleneck, layers = 64, 16, 3
    parts = {"sasrec": SASRec(layers=layers), "adapter": Adapter(bottleneck=bottleneck)}
    config, catalogue = Config(model=Model(dim=dim), parts=parts), Catalogue(items=10, attributes={})
    model = untuned_model(config, catalogue)
    attach(model, "adapter", config, catalogue)
    method = TUNING_METHODS["adapter"](config, catalogue)
    trained = {name: p for name, p in model.named_parameters() if method.trainable(name)}
    assert all(name.split(".")[3] in ("out", "down") for name in trained)
    each = dim * bottleneck + bottleneck + bottleneck * dim + dim
    assert sum(p.numel() for p in trained.values()) == 2 * layers * each
    assert not method.trains_items


def test_an_adapter_adds_nothing_before_it_is_trained_and_then_what_its_formula_says() -> None:
    torch.manual_seed(0)
    branch, x = torch.nn.Linear(8, 8), torch.randn(5, 8)
    adapted = Adapted(branch, 8, 3)
    assert torch.equal(adapted(x), branch(x))
    torch.nn.init.normal_(adapted.adapter.up.weight)
    h = branch(x)
    down, up = adapted.adapter.down, adapted.adapter.up
    hidden = h @ down.weight.T + down.bias
    gelu = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(adapted(x), h + gelu @ up.weight.T + up.bias)


def test_a_plan_counts_their_products() -> None:
    dim, bottleneck, layers = 64, 16, 3
    parts = {"sasrec": SASRec(layers=layers), "adapter": Adapter(bottleneck=bottleneck)}
    config, catalogue = Config(model=Model(dim=dim), parts=parts), Catalogue(items=10, attributes={})
    shape = typical(config, catalogue, "adapter", 1, 20)
    adapter, none = (
        step_cost(config, catalogue, method, shape, "cpu")["backbone"]["flops"] for method in ("adapter", "last-layer")
    )
    assert adapter - none == 3 * 2 * shape.rows * 2 * layers * 2 * dim * bottleneck
