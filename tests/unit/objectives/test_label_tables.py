"""Label spaces that are tables: loss and gradients against ``F.cross_entropy``, and what the candidates are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Loss, Train
from ppr_dist.data.manifest import LabelSpace
from ppr_dist.errors import UserError
from ppr_dist.model.encoded import Encoded
from ppr_dist.objectives.base import Exchanged, Step
from ppr_dist.objectives.label_tables import log_expected
from ppr_dist.objectives.labels import Labels, Settings, head_name
from ppr_dist.parallel.collectives import Pending
from tests.multirank.models import ITEMS, LABELS
from tests.settings import collator, parts
from tests.shards import labels_of, random_users, rank_part

DIM, TEMPERATURE = 6, 0.7
ANSWER, ORDERS = LABELS
USERS = random_users(30, ITEMS, longest=9, labels=LABELS)
WHOLE = {"uniform_negatives": 10_000}


def objective(spaces: tuple[LabelSpace, ...], **settings: int) -> Labels:
    of_labels = parts(labels={"dense_up_to": 2, **settings})
    config = Config(loss=Loss(temperature=TEMPERATURE), train=Train(objectives=["labels"]), parts=of_labels)
    return Labels(config, Catalogue(items=ITEMS, attributes={}, labels=spaces))


def loss_of(made: Labels, vectors: Tensor, tables: dict[str, Tensor], step: int = 0) -> Tensor:
    """On one rank, without a process group; ``vectors`` of USERS, in their order."""
    batch = collator({"labels": made}, ITEMS)(USERS, epoch=0, step=step, global_users=len(USERS))
    place = [USERS.index.tolist().index(user) for user in batch.users.tolist()]
    rows = {name: table[batch.label_ids[name]] for name, table in tables.items()}
    shared = torch.cat([rows[name][batch.drawn["labels"][f"{name}.candidates"]] for name in tables])
    heads = {name: head(vectors[place]) for name, head in made.heads(DIM).items()}
    given = Step(
        batch=batch,
        items=vectors,
        labels=rows,
        encoded=Encoded(vectors, None, heads),
        exchanged=Exchanged(made.count(batch)[None], made.to_exchange(batch)[None]),
        started=Pending(None, lambda: shared),  # type: ignore[arg-type]
    )
    return made.sum(given) / made.count(batch)


def leaves(spaces: tuple[LabelSpace, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    tables = {space.name: torch.randn(space.size, DIM, dtype=torch.float64).requires_grad_() for space in spaces}
    return torch.randn(len(USERS), DIM, dtype=torch.float64).requires_grad_(), tables


@pytest.mark.parametrize(
    "settings", [WHOLE, {**WHOLE, "in_batch_per_user": 0}, {**WHOLE, "in_batch_users": 5}], ids=str
)
@pytest.mark.parametrize("spaces", [(ANSWER,), (ORDERS,), LABELS], ids=["answer", "orders", "both"])
def test_compared_with_the_whole_space_it_is_the_layers_loss_and_gradient(
    spaces: tuple[LabelSpace, ...], settings: dict[str, int]
) -> None:
    """Where a user has several labels, of one that masks the user's others."""
    vectors, tables = leaves(spaces)
    made = objective(spaces, **settings)
    assert all(isinstance(head, torch.nn.Identity) for head in made.heads(DIM).values())
    loss = loss_of(made, vectors, tables)
    wanted = torch.zeros((), dtype=torch.float64)
    for space in spaces:
        pairs = [(row, label) for row in range(len(USERS)) for label in labels_of(USERS, space.name, row)]
        rows, labels = (list(each) for each in zip(*pairs, strict=True))
        logits = vectors[rows] @ tables[space.name].T / TEMPERATURE
        for pair, (row, label) in enumerate(pairs):
            logits[pair, [other for other in labels_of(USERS, space.name, row) if other != label]] = -math.inf
        wanted = wanted + F.cross_entropy(logits, torch.tensor(labels))
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    found, right = (torch.autograd.grad(each, [vectors, *tables.values()]) for each in (loss, wanted))
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_candidates_estimate_the_sum_over_the_space_without_bias() -> None:
    made = objective((ORDERS,), uniform_negatives=19, in_batch_per_user=1, in_batch_users=8)
    weights = torch.from_numpy(np.random.default_rng(0).lognormal(size=ORDERS.size))
    sums = []
    for step in range(400):
        batch = collator({"labels": made}, ITEMS)(USERS, epoch=step % 3, step=step, global_users=len(USERS))
        drawn = batch.drawn["labels"]
        ids = torch.cat([drawn["orders.lent"], drawn["orders.uniform"]])
        q = log_expected(ids[None], len(drawn["orders.lent"]), math.log(19 / ORDERS.size)).exp()[0]
        lent = set(drawn["orders.lent"].tolist()) - {-1}
        assert 1 <= len(lent) <= 8
        share = torch.stack([(1 / q)[ids == label].sum() for label in lent])
        torch.testing.assert_close(share, torch.ones(len(lent)))  # each of them once, however often it is lent or drawn
        sums.append(float((weights[ids.clamp(min=0)] / q).sum()))
    error = np.mean(sums) - float(weights.sum())
    assert np.std(sums) > 1
    assert abs(error) < 4 * np.std(sums) / len(sums) ** 0.5


@pytest.mark.parametrize("in_batch_users", [4_096, 7])
def test_ranks_together_lend_and_draw_what_one_does(in_batch_users: int) -> None:
    made = objective(LABELS, uniform_negatives=19, in_batch_per_user=2, in_batch_users=in_batch_users)

    def drawn(rank: int, world_size: int) -> dict[str, list[int]]:
        collate = collator({"labels": made}, ITEMS, rank=rank, world_size=world_size)
        batch = collate(rank_part(USERS, rank, world_size), epoch=1, step=2, global_users=len(USERS))
        of_space = ("orders.lent", "orders.uniform", "answer.lent", "answer.uniform")
        return {name: batch.drawn["labels"][name].tolist() for name in of_space}

    (one,) = (drawn(0, 1),)
    assert len(set(one["orders.uniform"])) == 19
    assert sorted(one["answer.uniform"]) == [0, 1, 2]
    for world_size in (2, 3):
        parts_of = [drawn(rank, world_size) for rank in range(world_size)]
        for name, whole in one.items():
            assert len({len(part[name]) for part in parts_of}) == 1  # the same on every rank
            together = [label for part in parts_of for label in part[name] if label >= 0]
            assert sorted(together) == sorted(label for label in whole if label >= 0)


def test_a_space_is_a_table_above_the_limit_alone() -> None:
    made = objective(LABELS, dense_up_to=ORDERS.size - 1)
    assert [space.name for space in made.tables] == ["orders"]
    assert isinstance(made.heads(DIM)[head_name("answer")], torch.nn.Linear)
    assert not objective(LABELS, dense_up_to=ORDERS.size).tables
    assert Settings().dense_up_to == 50_000


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"uniform_negatives": 0, "in_batch_per_user": 0}, {"in_batch_users": 0}, {"uniform_negatives": -1}):
        with pytest.raises(UserError, match=r"^labels[. ]"):
            Settings(**wrong)
