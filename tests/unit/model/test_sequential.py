"""SequentialModel: what a user vector depends on, and what it must not depend on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppr_dist.batch import Batch, View
from ppr_dist.config import Model
from ppr_dist.data.stream import padding
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.data.stream.padding import bucket_by_length, rebucket
from ppr_dist.model.backbones.sasrec import SASRec, Settings
from ppr_dist.model.packed_sequences import PackedSequences
from ppr_dist.model.sequential import SequentialModel
from tests.histories import HISTORIES, ITEMS, batch_of, history_of
from tests.settings import collator, objectives
from tests.shards import random_users

DIM, FEATURES = 8, 6
TABLE = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(0))
X = torch.randn(len(HISTORIES), FEATURES, generator=torch.Generator().manual_seed(1))
Y = torch.randn(len(HISTORIES), FEATURES, generator=torch.Generator().manual_seed(2))


def model(
    *,
    with_prompt: bool = True,
    with_profile_encoder: bool = True,
    tokens: int = 2,
    positions: Any = "first",
    dropout: float = 0.0,
    **more: Any,
) -> SequentialModel:
    torch.manual_seed(3)
    made = SequentialModel(Model(dim=DIM, max_length=8, dropout=dropout, **more), Settings(positions=positions))
    if with_prompt:
        made.attach_prompt(tokens, FEATURES, hidden=7)
    if with_profile_encoder:
        made.attach_profile_encoder(FEATURES, hidden=7)
        assert made.profile_encoder is not None
        made.profile_encoder.second.reset_parameters()  # as if trained: it begins at 0
    with torch.no_grad():
        positions_of(made).mul_(30)  # as large as what it is added to, so that a wrong position shows
    return made


def positions_of(made: SequentialModel) -> Tensor:
    assert isinstance(made.backbone, SASRec)
    return made.backbone.positions


def with_views(batch: Batch, profile_dropout: float, lists: list[list[int]]) -> Batch:
    """Besides the users with part of their profile dropped, and with other histories."""
    other = history_of(lists)
    other = dataclasses.replace(other, buckets=rebucket(batch.history.buckets, other.lengths.numpy()))
    views = View(profile_dropout=profile_dropout), View(history=other)
    return dataclasses.replace(batch, views={"contrastive": views})


def profiles(x: Tensor = X, y: Tensor = Y) -> dict[str, Tensor]:
    return {"prompt": x, "profile_encoder": y}


def vectors(made: SequentialModel, histories: list[list[int]], x: Tensor = X, y: Tensor = Y) -> list[Tensor]:
    """User vectors after each context by user, each [length + 1, D]."""
    encoded = made(TABLE, batch_of(histories), profiles(x, y))
    assert encoded.final is None
    return list(encoded.user.split([len(items) + 1 for items in histories]))


@pytest.fixture(params=[(True, True), (False, True), (False, False)], ids=["ppr", "fine-tune", "pretrain"])
def made(request: pytest.FixtureRequest) -> SequentialModel:
    with_prompt, with_profile_encoder = request.param
    return model(with_prompt=with_prompt, with_profile_encoder=with_profile_encoder)


@pytest.mark.parametrize("bucket_tokens", [1, 9, padding.BUCKET_TOKENS])
def test_neither_neighbours_nor_padding_matter(
    made: SequentialModel, bucket_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(padding, "BUCKET_TOKENS", bucket_tokens)
    assert (len(batch_of(HISTORIES).history.buckets) == 1) == (bucket_tokens > 9)
    together = vectors(made, HISTORIES)
    for i, history in enumerate(HISTORIES):
        (alone,) = vectors(made, [history], X[i : i + 1], Y[i : i + 1])
        torch.testing.assert_close(together[i], alone, rtol=1e-5, atol=1e-5)


def test_gradients_do_not_depend_on_padding(made: SequentialModel, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for bucket_tokens in (1, padding.BUCKET_TOKENS):
        monkeypatch.setattr(padding, "BUCKET_TOKENS", bucket_tokens)
        table = TABLE.clone().requires_grad_()
        made.zero_grad()
        out = made(table, batch_of(HISTORIES), profiles()).user
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        found.append([table.grad, *(p.grad for p in made.parameters() if p.grad is not None)])
    assert len(found[0]) > 10
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_state_does_not_see_later_items(made: SequentialModel) -> None:
    changed = [history.copy() for history in HISTORIES]
    changed[0][4] = 25
    before, after = vectors(made, HISTORIES)[0], vectors(made, changed)[0]
    torch.testing.assert_close(after[:5], before[:5], rtol=0, atol=0)
    assert (after[5:] - before[5:]).abs().amax(1).min() > 1e-3


def test_order_matters(made: SequentialModel) -> None:
    swapped = [[7, 3, *HISTORIES[0][2:]], *HISTORIES[1:]]
    assert (vectors(made, swapped)[0][-1] - vectors(made, HISTORIES)[0][-1]).abs().max() > 1e-3


def test_training_on_a_history_asks_what_evaluation_asks_after_each_context(made: SequentialModel) -> None:
    """Evaluation sees a history cut after the context: its vector is the one that training learned there."""
    for i, history in enumerate(HISTORIES):
        together = vectors(made, [history], X[i : i + 1], Y[i : i + 1])[0]
        for context in range(len(history) + 1):
            cut = vectors(made, [history[:context]], X[i : i + 1], Y[i : i + 1])[0][-1]
            torch.testing.assert_close(together[context], cut, rtol=1e-5, atol=1e-5)


def test_training_and_evaluation_cut_a_history_alike() -> None:
    """The real collation of both: after every context of a history that fits, the last one of a longer history."""
    made = model(with_prompt=False, with_profile_encoder=False)
    users = random_users(20, ITEMS, shortest=1, longest=20)
    chosen = objectives(ITEMS, softmax={"uniform_negatives": 4, "in_batch_per_user": 1})
    trained = collator(chosen, ITEMS, max_length=8)(users, epoch=0, step=0, global_users=len(users))
    found = made(TABLE[trained.item_ids], trained, {}).user
    row = torch.argsort(trained.users)  # users are numbered 0, 1, … here
    compared = 0
    for user, clicks in enumerate(users.lengths.tolist()):
        mine = found[trained.user_rows == row[user]]
        for nth, context in enumerate(range(1, clicks) if clicks <= 9 else [clicks - 1]):
            asked = history_batch(Instances(users, np.array([user]), np.array([context])), max_length=8)
            vector = made(TABLE[asked.item_ids], asked, {}).user
            torch.testing.assert_close(mine[nth if clicks <= 9 else -1], vector[0], rtol=1e-5, atol=1e-5)
            compared += 1
    assert compared > 30


def test_positions_count_from_the_first_item_kept(made: SequentialModel) -> None:
    with torch.no_grad():
        before = vectors(made, HISTORIES)
        positions_of(made)[3] += 1.0 + torch.arange(DIM)  # not a shift that a norm takes out
        after = vectors(made, HISTORIES)
    for i, history in enumerate(HISTORIES):
        moved = (after[i] - before[i]).abs().amax(1) > 1e-4
        assert moved.tolist() == [context > 3 for context in range(len(history) + 1)]


@pytest.mark.parametrize("parts", [(True, True), (False, True), (False, False)])
def test_or_back_from_the_most_recent_item(parts: tuple[bool, bool]) -> None:
    made = model(with_prompt=parts[0], with_profile_encoder=parts[1], positions="last")
    with torch.no_grad():
        before = vectors(made, HISTORIES)
        positions_of(made)[0] += 1.0 + torch.arange(DIM)  # not a shift that a norm takes out
        after = vectors(made, HISTORIES)
    for i, history in enumerate(HISTORIES):
        moved = (after[i] - before[i]).abs().amax(1) > 1e-4
        # Only the last item stands at position 0; an empty history has no position at all.
        assert moved.tolist() == [False] * len(history) + [True] * bool(history) + [False] * (not history)
    with torch.no_grad():
        positions_of(made)[3] += 1.0 + torch.arange(DIM)
    moved = (vectors(made, HISTORIES)[1] - after[1]).abs().amax(1) > 1e-4
    assert moved.tolist() == [False, False, True, True, True, True]  # item 1 of 5 is 3 before the last


def test_the_prompt_steers_every_state_and_has_no_position() -> None:
    made = model(with_profile_encoder=False)
    other = X.clone()
    other[0] += 1
    before, after = vectors(made, HISTORIES), vectors(made, HISTORIES, other)
    assert (after[0] - before[0]).abs().amax(1).min() > 1e-3
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)
    with torch.no_grad():
        positions_of(made).fill_(5.0)
    moved = vectors(made, HISTORIES)
    for i, state in enumerate(moved):
        torch.testing.assert_close(state[0], before[i][0], rtol=0, atol=0)


@pytest.mark.parametrize("tokens", [1, 3])
def test_before_any_click_a_user_is_the_backbone_over_the_prompt_alone(tokens: int) -> None:
    made = model(tokens=tokens)
    assert made.prompt is not None
    assert made.profile_encoder is not None
    rows = made.prompt(X).view(len(X) * tokens, DIM)
    # No prompts, but as many clicks, which have had their positions.
    lengths = np.full(len(X), tokens)
    alone = PackedSequences(torch.from_numpy(lengths), bucket_by_length(lengths))
    want = made.backbone(rows, alone).view(len(X), tokens, DIM)[:, -1] + made.profile_encoder(Y)
    for found, vector in zip(vectors(made, HISTORIES), want, strict=True):
        torch.testing.assert_close(found[0], vector, rtol=1e-5, atol=1e-5)


def test_generator_and_profile_encoder_are_the_papers_two_layers() -> None:
    made = model()
    for mlp, out in ((made.prompt, 2 * DIM), (made.profile_encoder, DIM)):
        assert mlp is not None
        want = (X @ mlp.first.weight.T + mlp.first.bias).clamp(min=0) @ mlp.second.weight.T + mlp.second.bias
        assert want.shape == (len(X), out)
        torch.testing.assert_close(mlp(X), want)


def test_a_profile_encoder_changes_nothing_until_it_is_trained() -> None:
    plain = model(with_profile_encoder=False)
    before = vectors(plain, HISTORIES)
    plain.attach_profile_encoder(FEATURES, hidden=7)
    for after, vector in zip(vectors(plain, HISTORIES), before, strict=True):
        assert torch.equal(after, vector)


def test_without_prompt_the_profile_alone_is_the_user_before_any_click_and_is_added_to_the_rest() -> None:
    fine, plain = model(with_prompt=False), model(with_prompt=False, with_profile_encoder=False)
    plain.load_state_dict({k: v for k, v in fine.state_dict().items() if not k.startswith("profile_encoder.")})
    assert fine.profile_encoder is not None
    u_a = fine.profile_encoder(Y)
    for i, (whole, u_s) in enumerate(zip(vectors(fine, HISTORIES), vectors(plain, HISTORIES), strict=True)):
        assert u_s[0].abs().max() == 0
        torch.testing.assert_close(whole, u_a[i] + u_s)


def test_users_scored_by_cosine_are_of_length_1_and_point_the_same_way() -> None:
    for dot, cosine in zip(vectors(model(), HISTORIES), vectors(model(normalize=True), HISTORIES), strict=True):
        torch.testing.assert_close(cosine, dot / dot.norm(dim=1, keepdim=True))


def test_views_are_three_separate_calls() -> None:
    made = model(with_profile_encoder=False).train()
    fewer = [items[:1] * (len(items) > 2) + items[-2:] for items in HISTORIES]
    batch = with_views(batch_of(HISTORIES), 0.0, fewer)
    state, of_profile, of_interactions = made(TABLE, batch, profiles()).final_of(batch, "contrastive")
    whole = torch.stack([after[-1] for after in vectors(made, HISTORIES)])
    order = sorted(range(len(fewer)), key=lambda i: -len(fewer[i]))
    shorter = vectors(made, [fewer[i] for i in order], X[order])
    want = torch.stack([shorter[order.index(i)][-1] for i in range(len(fewer))])
    torch.testing.assert_close(state, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_profile, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_interactions, want, rtol=1e-5, atol=1e-5)
    assert (of_interactions - state).abs().amax(1)[0] > 1e-3


def test_profile_dropout_touches_only_its_view() -> None:
    made = model(with_profile_encoder=False).train()
    (plain_user, plain), (user, changed) = (
        (encoded.user, encoded.final_of(batch, "contrastive"))
        for batch in (with_views(batch_of(HISTORIES), dropped, HISTORIES) for dropped in (0.0, 0.5))
        for encoded in [made(TABLE, batch, profiles())]
    )
    assert torch.equal(user, plain_user)
    assert torch.equal(plain[0], changed[0])
    assert torch.equal(plain[2], changed[2])
    assert (plain[1] - changed[1]).abs().amax(1).max() > 1e-3


def test_each_objective_has_its_own_views() -> None:
    made, one = model(), with_views(batch_of(HISTORIES), 0.0, [items[-2:] for items in HISTORIES])
    other = with_views(one, 0.0, [items[-1:] for items in HISTORIES]).views["contrastive"]
    both = dataclasses.replace(one, views={"other": other, **one.views})
    encoded = made(TABLE, both, profiles())
    for name, views in both.views.items():
        alone = dataclasses.replace(one, views={name: views})
        for found, want in zip(
            encoded.final_of(both, name), made(TABLE, alone, profiles()).final_of(alone, name), strict=True
        ):
            torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    assert (encoded.final_of(both, "other")[2] - encoded.final_of(both, "contrastive")[2]).abs().max() > 1e-3


def test_a_head_sees_each_user_after_the_whole_history() -> None:
    made = model()
    made.attach_heads({"mine": torch.nn.Linear(DIM, 3)})
    encoded = made(TABLE, batch_of(HISTORIES), profiles())
    last = encoded.user[(torch.tensor([len(items) + 1 for items in HISTORIES])).cumsum(0) - 1]
    torch.testing.assert_close(encoded.heads["mine"], made.heads["mine"](last), rtol=1e-5, atol=1e-5)
    without = made(TABLE, batch_of(HISTORIES), profiles(), heads=False)
    assert not without.heads
    assert torch.equal(without.user, encoded.user)
    kept = made.heads["mine"]
    made.attach_heads({"mine": torch.nn.Linear(DIM, 3), "new": torch.nn.Linear(DIM, 1)})
    assert made.heads["mine"] is kept
    assert set(made(TABLE, batch_of(HISTORIES), profiles()).heads) == {"mine", "new"}


def test_dropout_only_while_training() -> None:
    made = model(dropout=0.5)

    def twice() -> list[Tensor]:
        return [made(TABLE, batch_of(HISTORIES, seed=seed), profiles()).user for seed in range(2)]

    made.eval()
    assert torch.equal(*twice())
    made.train()
    assert not torch.equal(*twice())


def test_no_users() -> None:
    out = model()(TABLE, batch_of([[]]), profiles(X[:1], Y[:1])).user
    assert out.shape == (1, DIM)
    nothing = torch.zeros(0, dtype=torch.int64)
    empty = dataclasses.replace(batch_of([[]]), history=history_of([]), context_lengths=nothing, user_rows=nothing)
    out = model()(TABLE, empty, profiles(X[:0], Y[:0])).user
    assert out.shape == (0, DIM)
    out.sum().backward()  # a rank without users still has a graph for the engine


def test_dropout_draws_anew_for_each_view() -> None:
    """Of the same history; and no view's rows are another's, one further on."""
    made = SequentialModel(Model(dim=DIM, dropout=0.5), Settings(layers=1)).train()
    alike = [[3] * 4 for _ in range(64)]
    batch = with_views(batch_of(alike), 0.0, alike)
    sequences, _ = made._states(TABLE, batch, [View(), *batch.views["contrastive"]], None)
    views = sequences.keys_of(torch.empty(sequences.rows)).view(3, 64, -1)
    assert views.unique().numel() == views.numel()
