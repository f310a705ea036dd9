"""SequentialModel: what a user vector depends on, and what it must not depend on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppr_dist.batch import Batch, distinct_values
from ppr_dist.config import Loss, Model, Prompt
from ppr_dist.data.stream import padding
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.data.stream.padding import bucket_by_length, rebucket
from ppr_dist.model.packed_sequences import Rectangle
from ppr_dist.model.sequential import SequentialModel, Views
from tests.shards import random_users

ITEMS, DIM, FEATURES = 30, 8, 6
TABLE = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(0))
HISTORIES = [[3, 7, 7, 1, 9, 12, 4], [5, 8, 2, 6, 1], [11, 3, 2, 28], [20], [29], []]
"""In order of falling length, as batches hold them."""
X = torch.randn(len(HISTORIES), FEATURES, generator=torch.Generator().manual_seed(1))
Y = torch.randn(len(HISTORIES), FEATURES, generator=torch.Generator().manual_seed(2))


def tower(
    *, with_prompt: bool = True, with_profile_encoder: bool = True, tokens: int = 2, **model_fields: Any
) -> SequentialModel:
    torch.manual_seed(3)
    model = Model(dim=DIM, blocks=2, heads=2, max_length=8, **{"dropout": 0.0, "positions": "first", **model_fields})
    prompt = Prompt(tokens=tokens, hidden=7, attribute_dim=3)
    made = SequentialModel(
        model, prompt, attributes=2, with_prompt=with_prompt, with_profile_encoder=with_profile_encoder
    )
    with torch.no_grad():
        made.position.mul_(30)  # as large as what it is added to, so that a wrong position shows
    return made


def batch_of(histories: list[list[int]], masked: list[list[int]] | None = None) -> Batch:
    """Every prefix of every user asked for, user after user."""

    def layout(lists: list[list[int]]) -> tuple[Tensor, Tensor]:
        flat = np.array([item for items in lists for item in items], np.int64)
        return torch.from_numpy(flat), torch.tensor([len(items) for items in lists])

    flat, lengths = layout(histories)
    batch = Batch(
        users=torch.arange(len(histories)),
        item_ids=torch.arange(ITEMS),
        history=flat,
        lengths=lengths,
        groups=bucket_by_length(lengths.numpy()),
        prefix=torch.cat([torch.arange(len(items) + 1) for items in histories]),
        owner=torch.repeat_interleave(torch.arange(len(histories)), lengths + 1),
        targets=torch.zeros(0, dtype=torch.int64),
        **distinct_values(np.zeros((2, len(histories)), np.int64)),
        total_targets=0.0,
    )
    if masked is None:
        return batch
    flat, lengths = layout(masked)
    return dataclasses.replace(
        batch, masked_history=flat, masked_lengths=lengths, masked_buckets=rebucket(batch.groups, lengths.numpy())
    )


def slots(made: SequentialModel, histories: list[list[int]], x: Tensor = X, y: Tensor = Y) -> list[Tensor]:
    """User vectors by user, each [length + 1, D]."""
    out, views = made(TABLE, batch_of(histories), x, y)
    assert views is None
    return list(out.split([len(items) + 1 for items in histories]))


@pytest.fixture(params=[(True, True), (False, True), (False, False)], ids=["ppr", "fine-tune", "pretrain"])
def made(request: pytest.FixtureRequest) -> SequentialModel:
    with_prompt, with_profile_encoder = request.param
    return tower(with_prompt=with_prompt, with_profile_encoder=with_profile_encoder)


@pytest.mark.parametrize("bucket_tokens", [1, 9, padding.BUCKET_TOKENS])
def test_neither_neighbours_nor_padding_matter(
    made: SequentialModel, bucket_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(padding, "BUCKET_TOKENS", bucket_tokens)
    assert (len(batch_of(HISTORIES).groups) == 1) == (bucket_tokens > 9)
    together = slots(made, HISTORIES)
    for i, history in enumerate(HISTORIES):
        (alone,) = slots(made, [history], X[i : i + 1], Y[i : i + 1])
        torch.testing.assert_close(together[i], alone, rtol=1e-5, atol=1e-5)


def test_gradients_do_not_depend_on_padding(made: SequentialModel, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for bucket_tokens in (1, padding.BUCKET_TOKENS):
        monkeypatch.setattr(padding, "BUCKET_TOKENS", bucket_tokens)
        table = TABLE.clone().requires_grad_()
        made.zero_grad()
        out, _ = made(table, batch_of(HISTORIES), X, Y)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        found.append([table.grad, *(p.grad for p in made.parameters() if p.grad is not None)])
    assert len(found[0]) > 10
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_slot_does_not_see_later_items(made: SequentialModel) -> None:
    changed = [history.copy() for history in HISTORIES]
    changed[0][4] = 25
    before, after = slots(made, HISTORIES)[0], slots(made, changed)[0]
    torch.testing.assert_close(after[:5], before[:5], rtol=0, atol=0)
    assert (after[5:] - before[5:]).abs().amax(1).min() > 1e-3


def test_order_matters(made: SequentialModel) -> None:
    swapped = [[7, 3, *HISTORIES[0][2:]], *HISTORIES[1:]]
    assert (slots(made, swapped)[0][-1] - slots(made, HISTORIES)[0][-1]).abs().max() > 1e-3


def test_training_on_a_history_asks_what_evaluation_asks_at_each_prefix(made: SequentialModel) -> None:
    """Evaluation sees a history cut at the prefix: its vector is the one that training learned there."""
    for i, history in enumerate(HISTORIES):
        together = slots(made, [history], X[i : i + 1], Y[i : i + 1])[0]
        for prefix in range(len(history) + 1):
            cut = slots(made, [history[:prefix]], X[i : i + 1], Y[i : i + 1])[0][-1]
            torch.testing.assert_close(together[prefix], cut, rtol=1e-5, atol=1e-5)


def test_training_and_evaluation_cut_a_history_alike() -> None:
    """The real collation of both: at every prefix of a history that fits, at the last one of a longer history."""
    made = tower(with_prompt=False, with_profile_encoder=False)
    users = random_users(20, ITEMS, shortest=1, longest=20)
    collate = Collator(
        loss=Loss(uniform_negatives=4, in_batch_per_user=1),
        items=ITEMS,
        probability=np.full(ITEMS, 1 / ITEMS, np.float32),
        max_length=8,
        hold_out=0,
        first_target=1,
        views=False,
        seed=0,
        rank=0,
        world_size=1,
    )
    trained = collate(users, epoch=0, step=0, global_users=len(users))
    vectors, _ = made(TABLE[trained.item_ids], trained, None, None)
    row = torch.argsort(trained.users)  # users are numbered 0, 1, … here
    compared = 0
    for user, clicks in enumerate(users.lengths.tolist()):
        mine = vectors[trained.owner == row[user]]
        for nth, prefix in enumerate(range(1, clicks) if clicks <= 9 else [clicks - 1]):
            asked = history_batch(Instances(users, np.array([user]), np.array([prefix])), max_length=8)
            vector, _ = made(TABLE[asked.item_ids], asked, None, None)
            torch.testing.assert_close(mine[nth if clicks <= 9 else -1], vector[0], rtol=1e-5, atol=1e-5)
            compared += 1
    assert compared > 30


def test_positions_count_from_the_first_item_kept(made: SequentialModel) -> None:
    with torch.no_grad():
        before = slots(made, HISTORIES)
        made.position[3] += 1.0 + torch.arange(DIM)  # not a shift that a norm takes out
        after = slots(made, HISTORIES)
    for i, history in enumerate(HISTORIES):
        moved = (after[i] - before[i]).abs().amax(1) > 1e-4
        assert moved.tolist() == [prefix > 3 for prefix in range(len(history) + 1)]


@pytest.mark.parametrize("parts", [(True, True), (False, True), (False, False)])
def test_or_back_from_the_most_recent_item(parts: tuple[bool, bool]) -> None:
    made = tower(with_prompt=parts[0], with_profile_encoder=parts[1], positions="last")
    with torch.no_grad():
        before = slots(made, HISTORIES)
        made.position[0] += 1.0 + torch.arange(DIM)  # not a shift that a norm takes out
        after = slots(made, HISTORIES)
    for i, history in enumerate(HISTORIES):
        moved = (after[i] - before[i]).abs().amax(1) > 1e-4
        # Only the last item stands at position 0; an empty history has no position at all.
        assert moved.tolist() == [False] * len(history) + [True] * bool(history) + [False] * (not history)
    with torch.no_grad():
        made.position[3] += 1.0 + torch.arange(DIM)
    moved = (slots(made, HISTORIES)[1] - after[1]).abs().amax(1) > 1e-4
    assert moved.tolist() == [False, False, True, True, True, True]  # item 1 of 5 is 3 before the last


def test_the_prompt_steers_every_slot_and_has_no_position() -> None:
    made = tower(with_profile_encoder=False)
    other = X.clone()
    other[0] += 1
    before, after = slots(made, HISTORIES), slots(made, HISTORIES, other)
    assert (after[0] - before[0]).abs().amax(1).min() > 1e-3
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)
    with torch.no_grad():
        made.position.fill_(5.0)
    moved = slots(made, HISTORIES)
    for i, state in enumerate(moved):
        torch.testing.assert_close(state[0], before[i][0], rtol=0, atol=0)


@pytest.mark.parametrize("tokens", [1, 3])
def test_slot_0_is_the_backbone_over_the_prompt_alone(tokens: int) -> None:
    made = tower(tokens=tokens)
    assert made.prompt is not None
    assert made.tower is not None
    prompt = made.prompt(X).view(len(X) * tokens, DIM)
    alone = [Rectangle(sequences=len(X), width=tokens, tokens=len(prompt), rows=None)]
    want = made.backbone(prompt, alone).view(len(X), tokens, DIM)[:, -1] + made.tower(Y)
    for found, vector in zip(slots(made, HISTORIES), want, strict=True):
        torch.testing.assert_close(found[0], vector, rtol=1e-5, atol=1e-5)


def test_generator_and_tower_are_the_papers_two_layers() -> None:
    made = tower(with_prompt=False)
    assert made.tower is not None
    first, second = made.tower.first, made.tower.second
    want = (X @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    torch.testing.assert_close(made.tower(X), want)


def test_without_prompt_slot_0_is_the_profile_alone_and_the_rest_adds_it() -> None:
    fine, plain = tower(with_prompt=False), tower(with_prompt=False, with_profile_encoder=False)
    plain.load_state_dict({k: v for k, v in fine.state_dict().items() if not k.startswith("tower.")})
    assert fine.tower is not None
    u_a = fine.tower(Y)
    for i, (whole, u_s) in enumerate(zip(slots(fine, HISTORIES), slots(plain, HISTORIES), strict=True)):
        assert u_s[0].abs().max() == 0
        torch.testing.assert_close(whole, u_a[i] + u_s)


def test_views_are_three_separate_calls() -> None:
    made = tower(with_profile_encoder=False).train()
    masked = [items[:1] * (len(items) > 2) + items[-2:] for items in HISTORIES]
    _, views = made(TABLE, batch_of(HISTORIES, masked), X, Y, 0.0)
    assert isinstance(views, Views)
    whole = torch.stack([state[-1] for state in slots(made, HISTORIES)])
    order = sorted(range(len(masked)), key=lambda i: -len(masked[i]))
    shorter = slots(made, [masked[i] for i in order], X[order])
    want = torch.stack([shorter[order.index(i)][-1] for i in range(len(masked))])
    torch.testing.assert_close(views.state, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(views.attribute_masked, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(views.behaviour_masked, want, rtol=1e-5, atol=1e-5)
    assert (views.behaviour_masked - views.state).abs().amax(1)[0] > 1e-3


def test_attribute_mask_touches_only_its_view() -> None:
    made = tower(with_profile_encoder=False).train()
    batch = batch_of(HISTORIES, HISTORIES)
    user, plain = made(TABLE, batch, X, Y, 0.0)
    masked_user, masked = made(TABLE, batch, X, Y, 0.5)
    assert torch.equal(user, masked_user)
    assert torch.equal(plain.state, masked.state)
    assert torch.equal(plain.behaviour_masked, masked.behaviour_masked)
    assert (plain.attribute_masked - masked.attribute_masked).abs().amax(1).max() > 1e-3


def test_dropout_only_while_training() -> None:
    made = tower(dropout=0.5)
    batch = batch_of(HISTORIES)
    made.eval()
    assert torch.equal(made(TABLE, batch, X, Y)[0], made(TABLE, batch, X, Y)[0])
    made.train()
    assert not torch.equal(made(TABLE, batch, X, Y)[0], made(TABLE, batch, X, Y)[0])


def test_no_users() -> None:
    out, _ = tower()(TABLE, batch_of([[]]), X[:1], Y[:1])
    assert out.shape == (1, DIM)
    nothing = torch.zeros(0, dtype=torch.int64)
    groups = bucket_by_length(nothing.numpy())
    empty = dataclasses.replace(batch_of([[]]), lengths=nothing, prefix=nothing, owner=nothing, groups=groups)
    out, _ = tower()(TABLE, empty, X[:0], Y[:0])
    assert out.shape == (0, DIM)
    out.sum().backward()  # a rank without users still has a graph for the engine
