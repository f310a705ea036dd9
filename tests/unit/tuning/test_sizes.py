"""What each parameter-efficient method trains, counted by a formula of its own."""

from __future__ import annotations

import pytest
import torch

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model, Profiles
from ppr_dist.errors import UserError
from ppr_dist.model.backbones.sasrec import Settings as SASRec
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning import TUNING_METHODS
from ppr_dist.tuning.adapter import Settings as Adapter
from ppr_dist.tuning.lora import Settings as LoRA
from ppr_dist.tuning.patch import Settings as Patch

D, LAYERS, HIDDEN = 64, 3, 128
PROFILES = Catalogue(items=10, attributes={"age": 4, "city": 5})
NO_PROFILES = Catalogue(items=10, attributes={})
PROFILE_ENCODER = 2 * D * HIDDEN + HIDDEN + HIDDEN * D + D


def bottleneck(given: int, width: int) -> int:
    return given * width + width + width * D + D


SIZES = {
    "adapter": LAYERS * 2 * bottleneck(D, 16),
    "pfeiffer": LAYERS * bottleneck(D, 16),
    "patch": LAYERS * 2 * bottleneck(D, D // 4),
    # qkv, out, up, down: r · (inputs + outputs).
    "lora": LAYERS * 8 * (D + 3 * D + D + D + D + 4 * D + 4 * D + D),
    "last-layer": 12 * D**2 + 13 * D + 2 * D,
    # Weight and bias of two norms a layer and of the last; biases of qkv, out, up, down.
    "norms-and-biases": LAYERS * (4 * D + 9 * D) + 2 * D,
    "head": 0,
    "constant-prompt": D,
    "continual": LAYERS * 12 * D**2,
    "ppr-light": 2 * D * HIDDEN + HIDDEN + HIDDEN * D + D,
}


def tuned(method: str, catalogue: Catalogue, **parts: object) -> SequentialModel:
    config = Config(
        model=Model(dim=D), profiles=Profiles(hidden=HIDDEN), parts={"sasrec": SASRec(layers=LAYERS), **parts}
    )
    model = untuned_model(config, catalogue)
    attach(model, method, config, catalogue)
    return model


def trained(model: SequentialModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("method", SIZES)
def test_what_is_trained_is_what_the_formula_says_and_the_profile_encoder(method: str) -> None:
    assert trained(tuned(method, PROFILES)) == SIZES[method] + PROFILE_ENCODER
    assert not TUNING_METHODS[method].trains_items


def test_patches_of_a_layer_are_4256_parameters_8_5_percent_of_it() -> None:
    # PeterRec's own shape at width 64: two patches of a quarter of the width.
    model = tuned("patch", NO_PROFILES)
    assert trained(model) == LAYERS * 4_256
    layer = sum(parameter.numel() for parameter in model.backbone.get_submodule("layers.0").parameters()) - 4_256
    assert round(4_256 / layer, 3) == 0.085


def test_a_parallel_patch_is_as_wide_as_what_its_layer_is_given() -> None:
    model = tuned("patch", NO_PROFILES, patch=Patch(insertion="parallel", bottleneck=5))
    assert trained(model) == LAYERS * (bottleneck(D, 5) + bottleneck(4 * D, 5))


def test_loras_size_follows_its_rank() -> None:
    assert trained(tuned("lora", NO_PROFILES, lora=LoRA(rank=2))) == SIZES["lora"] // 4


def test_a_text_encoder_like_bert_base_and_a_sasrec_with_adapters_train_2_387_776() -> None:
    # Adapter4Rec's two shapes: bottleneck 64 in 12 layers of width 768, 16 in 2 layers of width 64.
    total = 0
    for dim, layers, heads, width in ((768, 12, 12, 64), (64, 2, 2, 16)):
        parts = {"sasrec": SASRec(layers=layers, heads=heads), "adapter": Adapter(bottleneck=width)}
        config = Config(model=Model(dim=dim), parts=parts)
        with torch.device("meta"):
            model = untuned_model(config, NO_PROFILES)
            attach(model, "adapter", config, NO_PROFILES)
        total += trained(model)
    assert total == 2_387_776


def test_a_head_alone_needs_a_head() -> None:
    with pytest.raises(UserError, match="--method head: nothing to train"):
        tuned("head", NO_PROFILES)
