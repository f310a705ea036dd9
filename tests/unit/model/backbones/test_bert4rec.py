"""BERT4Rec against the plain formulas in float64, and against what a model that sees later clicks may not be asked."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.build_model import untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model
from ppr_dist.data.stream import padding
from ppr_dist.data.stream.cloze import Cloze, ask_by_mask
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tasks.few_shot import FewShot
from tests.settings import collator, objectives, parts
from tests.shards import random_users, select

ITEMS, DIM, HEADS, LONGEST = 40, 8, 2, 9
USERS = random_users(12, ITEMS, shortest=2, longest=12)
TABLE = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.fixture(autouse=True)
def padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "BUCKET_TOKENS", 25)


def model() -> SequentialModel:
    """Not one of its parameters is 0."""
    torch.manual_seed(2)
    config = Config(
        model=Model(backbone="bert4rec", dim=DIM, max_length=LONGEST, dropout=0.0),
        parts=parts(bert4rec={"heads": HEADS, "layers": 2}),
    )
    made = untuned_model(config, Catalogue(items=ITEMS, attributes={})).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return made


def by_hand(made: SequentialModel, items: list[int | None]) -> Tensor:
    """States of a sequence [S, D], None being the mask: eq. 1 to 7 of the paper, without the item's bias."""
    p = {name: value.detach() for name, value in made.named_parameters()}

    def norm(name: str, x: Tensor) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return x * p[f"backbone.{name}.weight"] + p[f"backbone.{name}.bias"]

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ p[f"backbone.{name}.weight"].T + p[f"backbone.{name}.bias"]

    vectors = torch.stack([p["mask"] if item is None else TABLE[item] for item in items])
    x = norm("embedding_norm", vectors + p["backbone.positions"][: len(items)])
    for n in range(2):
        query, key, value = linear(f"layers.{n}.qkv", x).chunk(3, dim=1)
        width, heads = DIM // HEADS, []
        for h in range(HEADS):
            own = slice(h * width, (h + 1) * width)
            weights = (query[:, own] @ key[:, own].T / math.sqrt(width)).exp()
            heads.append(weights / weights.sum(1, keepdim=True) @ value[:, own])
        x = norm(f"layers.{n}.attention_norm", x + linear(f"layers.{n}.out", torch.cat(heads, 1)))
        hidden = F.gelu(linear(f"layers.{n}.up", x))
        x = norm(f"layers.{n}.feed_forward_norm", x + linear(f"layers.{n}.down", hidden))
    return norm("norm", F.gelu(linear("out", x)))


def vectors_of(made: SequentialModel, instances: Instances) -> Tensor:
    """User vectors of instances as the scorer asks for them."""
    batch = ask_by_mask(history_batch(instances, LONGEST))
    return made(TABLE[batch.item_ids], batch, {}).user


def test_an_instance_is_scored_by_the_mask_behind_its_context() -> None:
    made, instances = model(), FewShot().instances(USERS)
    found = vectors_of(made, instances)
    for row, (user, context) in enumerate(zip(instances.user_rows, instances.context_lengths, strict=True)):
        first = USERS.offsets[user]
        clicks = USERS.items[first : first + context].tolist()[-LONGEST:]
        torch.testing.assert_close(found[row], by_hand(made, [*clicks, None])[-1].float(), rtol=1e-5, atol=1e-5)


def test_later_clicks_change_no_instance_before_them() -> None:
    made, instances = model(), FewShot().instances(USERS)
    before = vectors_of(made, instances)
    last = USERS.offsets[1:] - 1
    items = USERS.items.copy()
    items[last] = (items[last] + 7) % ITEMS
    changed = dataclasses.replace(USERS, items=items)
    after = vectors_of(made, Instances(changed, instances.user_rows, instances.context_lengths))
    assert torch.equal(after, before)  # the last click is only ever a target
    # So they would be, were all contexts of a user read off one pass.
    items[last - 1] = (items[last - 1] + 7) % ITEMS
    seen = vectors_of(made, Instances(changed, instances.user_rows, instances.context_lengths))
    sees = instances.context_lengths == USERS.lengths[instances.user_rows] - 1
    assert torch.equal(seen[~sees], before[~sees])
    assert (seen[sees] - before[sees]).abs().amax(1).min() > 1e-4


def test_to_ask_before_later_clicks_is_refused() -> None:
    batch = history_batch(FewShot().instances(select(USERS, [0])), LONGEST)
    leak = dataclasses.replace(batch, context_lengths=(batch.context_lengths - 1).clamp(min=1))
    with pytest.raises(ValueError, match="asked before"):
        ask_by_mask(leak)


@pytest.mark.parametrize("world_size", [1, 3])
def test_targets_are_masked_clicks_and_the_states_of_their_rows_do_not_see_them(world_size: int) -> None:
    made, asked = model(), {}
    for rank in range(world_size):
        given = {"rank": rank, "world_size": world_size, "max_length": LONGEST, "cloze": Cloze(mask=0.3, last=0.2)}
        part = select(USERS, list(range(rank * 12 // world_size, (rank + 1) * 12 // world_size)))
        batch = collator(objectives(ITEMS, full_softmax={}), ITEMS, **given)(
            part, epoch=1, step=0, global_users=len(USERS)
        )
        user = made(TABLE[batch.item_ids], batch, {}).user
        assert batch.history.masked is not None
        assert int(batch.history.masked.sum()) == len(batch.targets)
        for row, context, target, vector in zip(
            batch.user_rows, batch.context_lengths, batch.item_ids[batch.targets], user, strict=True
        ):
            asked[int(batch.users[row]), int(context)] = int(target), vector
    many = last_alone = 0
    for row, index in enumerate(USERS.index):
        clicks = USERS.items[USERS.offsets[row] : USERS.offsets[row + 1]].tolist()[-LONGEST - 1 :]
        masked = [context - 1 for user, context in asked if user == index]
        alone = masked == [len(clicks) - 1]
        assert alone or len(masked) == max(1, round(0.3 * len(clicks)))
        many, last_alone = many + len(masked), last_alone + alone
        hidden = by_hand(made, [None if n in masked else item for n, item in enumerate(clicks)])
        for n in masked:
            target, vector = asked[int(index), n + 1]
            assert target == clicks[n]
            torch.testing.assert_close(vector, hidden[n].float(), rtol=1e-5, atol=1e-5)
    assert many > len(USERS)
    assert last_alone


def test_which_clicks_are_masked_is_uniform_and_new_each_epoch() -> None:
    cloze, counts, users = Cloze(mask=0.2, last=0.1), np.full(4_000, 10), np.arange(4_000)
    masked = cloze.masked(counts, 3, 0, users).reshape(-1, 10)
    alone = (masked.sum(1) == 1) & masked[:, -1]
    assert 0.08 < alone.mean() < 0.12
    assert (masked[~alone].sum(1) == 2).all()
    assert np.abs(masked[~alone].mean(0) - 0.2).max() < 0.02
    assert (cloze.masked(counts, 3, 1, users).reshape(-1, 10) != masked).any()
