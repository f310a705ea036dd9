"""LoRA: an update of a weight matrix, of linear layers and convolutions alike."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ppr_dist.data.stream.padding import bucket_by_length
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.model.backbones.nextitnet import CausalConv1d
from ppr_dist.model.packed_sequences import PackedSequences
from ppr_dist.tuning.lora import Updated
from tests.registry.test_backbones import model


def test_it_is_the_layer_with_another_weight() -> None:
    torch.manual_seed(0)
    lengths = np.array([5, 3])
    sequences = PackedSequences(torch.from_numpy(lengths), bucket_by_length(lengths))
    cases: list[tuple[nn.Module, tuple[PackedSequences, ...]]] = [
        (nn.Linear(6, 10), ()),
        (CausalConv1d(6, 10, 3, dilation=2), (sequences,)),
    ]
    for layer, others in cases:
        updated, x = Updated(layer, 2, alpha=6.0), torch.randn(8, 6)
        assert torch.equal(updated(x, *others), layer(x, *others))
        a, b = (updated.update[name].get_parameter("weight") for name in "ab")
        nn.init.normal_(b)
        merged = copy.deepcopy(layer)
        with torch.no_grad():
            merged.get_parameter("weight").add_(6.0 / 2 * torch.tensordot(b, a, 1))
        torch.testing.assert_close(updated(x, *others), merged(x, *others))


@pytest.mark.parametrize("name", BACKBONES)
def test_what_a_backbone_calls_its_projections_is_a_weight_matrix_applied_to_rows(name: str) -> None:
    made = model(name)
    names = made.backbone.projections()
    assert names
    for each in names:
        assert made.backbone.get_submodule(each).get_parameter("weight").dim() > 1, each
    if name in ("sasrec", "hstu"):
        weights = sum(p.numel() for n, p in made.backbone.named_parameters() if p.dim() > 1 and n != "positions")
        assert weights == sum(made.backbone.get_submodule(each).get_parameter("weight").numel() for each in names)
