"""What holds of every backbone: what a state depends on, and what it must not depend on."""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from ppr_dist import read_config
from ppr_dist.batch import Batch
from ppr_dist.config import Config, Model
from ppr_dist.data.stream import padding
from ppr_dist.data.stream.padding import bucket_by_length
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.model.packed_sequences import PackedSequences
from ppr_dist.model.profile import ProfileMLP
from ppr_dist.model.sequential import SequentialModel
from tests.flops import counter
from tests.histories import HISTORIES, ITEMS, Times, batch_of

DIM, FEATURES, LONGEST = 16, 6, 8
TABLE = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(0))
PROFILES = torch.randn(len(HISTORIES), FEATURES, generator=torch.Generator().manual_seed(1))
CAUSAL = [name for name, backbone in BACKBONES.items() if backbone.causal]
each_backbone = pytest.mark.parametrize("name", BACKBONES)
IN_EACH_LAYER = 8
"""Prompt rows with which each layer that can has its own."""
with_and_without_prompts = pytest.mark.parametrize("prompt_rows", [0, 2, IN_EACH_LAYER])
with_and_without_times = pytest.mark.parametrize("times", get_args(Times))


def model(name: str, prompt_rows: int = 0) -> SequentialModel:
    """Not one of its parameters is 0."""
    torch.manual_seed(3)
    config = Config(model=Model(backbone=name, dim=DIM, max_length=LONGEST, dropout=0.0))
    made = SequentialModel(config.model, read_config.section(config, name)).eval()
    if prompt_rows:
        layers = made.backbone.prompted_layers if prompt_rows == IN_EACH_LAYER else 1
        made.attach_prompt(prompt_rows, FEATURES, hidden=7, layers=layers or 1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return made


def vectors(made: SequentialModel, batch: Batch, x: Tensor = PROFILES) -> list[Tensor]:
    """User vectors after each context by user, each [length + 1, D]."""
    user = made(TABLE, batch, {"prompt": x}).user
    return list(user.split((batch.history.lengths + 1).tolist()))


@pytest.mark.parametrize("name", CAUSAL)
@with_and_without_prompts
@with_and_without_times
def test_later_clicks_change_no_earlier_state(name: str, prompt_rows: int, times: Times) -> None:
    made, batch, at = model(name, prompt_rows), batch_of(HISTORIES, times), 4
    before = vectors(made, batch)
    of_first = slice(at, len(HISTORIES[0]))
    later = {"items": (batch.history.items + 5) % ITEMS}
    if times != "no times":
        later["times"] = batch.history.times + 10**6
    if times == "target's time":
        later["asked_at"] = batch.history.asked_at + 10**6
    for field, changed in later.items():
        new = getattr(batch.history, field).clone()
        new[of_first] = changed[of_first]
        history = dataclasses.replace(batch.history, **{field: new})
        after = vectors(made, dataclasses.replace(batch, history=history))
        torch.testing.assert_close(after[0][: at + 1], before[0][: at + 1], rtol=1e-6, atol=1e-6)
        for others, same in zip(after[1:], before[1:], strict=True):
            torch.testing.assert_close(others, same, rtol=1e-6, atol=1e-6)
        if field == "items":
            assert (after[0][at + 1 :] - before[0][at + 1 :]).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("name", CAUSAL)
@with_and_without_prompts
@with_and_without_times
def test_training_on_a_history_asks_what_evaluation_asks_after_each_context(
    name: str, prompt_rows: int, times: Times
) -> None:
    made = model(name, prompt_rows)
    for row, history in enumerate(HISTORIES):
        x = PROFILES[row : row + 1]
        (together,) = vectors(made, batch_of([history], times), x)
        for context in range(len(history) + 1):
            (cut,) = vectors(made, batch_of([history[:context]], times), x)
            torch.testing.assert_close(together[context], cut[-1], rtol=1e-5, atol=1e-5)


@each_backbone
@with_and_without_prompts
@with_and_without_times
@pytest.mark.parametrize("bucket_tokens", [1, 9, 256])
def test_neither_neighbours_nor_padding_matter(
    name: str, prompt_rows: int, times: Times, bucket_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(padding, "BUCKET_TOKENS", bucket_tokens)
    made = model(name, prompt_rows)
    together = vectors(made, batch_of(HISTORIES, times))
    for row, history in enumerate(HISTORIES):
        (alone,) = vectors(made, batch_of([history], times), PROFILES[row : row + 1])
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-5)


@each_backbone
@with_and_without_prompts
@with_and_without_times
def test_gradients_do_not_depend_on_padding(
    name: str, prompt_rows: int, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, found = model(name, prompt_rows), []
    for bucket_tokens in (1, 256):
        monkeypatch.setattr(padding, "BUCKET_TOKENS", bucket_tokens)
        table = TABLE.clone().requires_grad_()
        made.zero_grad()
        out = made(table, batch_of(HISTORIES, times), {"prompt": PROFILES}).user
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        found.append({"table": table.grad} | {name: p.grad for name, p in made.named_parameters()})
    for parameter, gradient in found[0].items():
        # A parameter that nothing was made of would hold up the ranks where something was.
        assert gradient is not None, parameter
        torch.testing.assert_close(gradient, found[1][parameter], rtol=1e-4, atol=1e-5, msg=parameter)


@each_backbone
@with_and_without_prompts
@with_and_without_times
def test_a_rank_without_users_has_a_gradient_for_every_parameter(name: str, prompt_rows: int, times: Times) -> None:
    made = model(name, prompt_rows)
    out = made(TABLE, batch_of([], times), {"prompt": PROFILES[:0]}).user
    assert out.shape == (0, DIM)
    out.sum().backward()
    for parameter, values in made.named_parameters():
        assert values.grad is not None, parameter
        assert not values.grad.any()


@each_backbone
def test_dropout_only_while_training(name: str) -> None:
    config = Config(model=Model(backbone=name, dim=DIM, max_length=LONGEST, dropout=0.5))
    made = SequentialModel(config.model, read_config.section(config, name))

    def twice() -> list[Tensor]:
        return [made(TABLE, batch_of(HISTORIES, seed=seed), {}).user for seed in range(2)]

    assert not torch.equal(*twice())
    made.eval()
    assert torch.equal(*twice())


@each_backbone
def test_flops_are_those_of_its_products(name: str) -> None:
    made, sequences, length = model(name), 5, LONGEST
    lengths = np.full(sequences, length)
    packed = PackedSequences(torch.from_numpy(lengths), bucket_by_length(lengths))
    x = torch.randn(sequences * length, DIM, requires_grad=True)
    shape = {"rows": sequences * length, "squared": sequences * length**2}
    with counter() as forward:
        states = made.backbone(made.backbone.embed(x, packed), packed)
    assert made.backbone.flops(**shape) == pytest.approx(forward.get_total_flops(), rel=0.02)
    with counter() as backward:
        states.sum().backward()
    both = forward.get_total_flops() + backward.get_total_flops()
    assert made.backbone.step_flops(**shape) == pytest.approx(both, rel=0.05)


@each_backbone
def test_what_it_says_of_its_modules_is_there(name: str) -> None:
    made = model(name)
    backbone = made.backbone
    parameters = [parameter for parameter, _ in backbone.named_parameters()]
    for prefix in backbone.last_layer():
        assert any(parameter.startswith(prefix) for parameter in parameters), prefix
    rows, batch = [], batch_of(HISTORIES)
    for branch in backbone.adaptable():
        backbone.get_submodule(branch).register_forward_hook(lambda _, __, out: rows.append(out.shape))
    vectors(made, batch)
    # Once each, rows of all users as they come.
    assert rows == [(len(batch.history.items), DIM)] * len(backbone.adaptable())


@each_backbone
def test_each_layer_sees_its_own_prompts(name: str) -> None:
    """After a click; before the first there is the last layer's prompt alone."""
    made, batch = model(name, IN_EACH_LAYER), batch_of(HISTORIES)
    layers = made.backbone.prompted_layers
    assert isinstance(made.prompt, ProfileMLP)
    of_layer = made.prompt.second.bias.detach().view(layers or 1, -1)
    before = made(TABLE, batch, {"prompt": PROFILES}).user
    for layer in range(layers):
        of_layer[layer, :DIM] += torch.linspace(-1, 1, DIM)
        after = made(TABLE, batch, {"prompt": PROFILES}).user
        assert (after - before)[batch.context_lengths > 0].abs().amax(1).min() > 1e-5, layer
        before = after
