"""Evaluation and top-k on several ranks against loops over users, items and candidates in plain numpy."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppr_dist import scoring
from ppr_dist.batch import Batch
from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model, Profiles, Tables
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream.instances import Instances, history_batch, sampled_negatives
from ppr_dist.data.stream.users import Users
from ppr_dist.errors import UserError
from ppr_dist.evaluation import evaluate
from ppr_dist.parallel.apply import make_embeddings
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.runs import table_sizes
from ppr_dist.scoring import ModelScorer, gather_queries, top_k
from ppr_dist.tasks import ranking
from ppr_dist.tasks.base import Evaluated
from tests.ranks import run_ranks
from tests.settings import parts
from tests.shards import ATTRIBUTES, clicks_of, random_users, select, write_data

ITEMS, DIM, MAX_LENGTH, SEED = 230, 3, 6, 7
WARM = random_users(17, ITEMS, shortest=1, longest=25)
COLD = random_users(23, ITEMS, longest=9, seed=4, first_index=17)
# Users who click an item again, which full ranking has to rank all the same.
COLD.items[COLD.offsets[5] + 1 : COLD.offsets[6]] = COLD.items[COLD.offsets[5]]
CPU = torch.device("cpu")
TASKS = ("few-shot", "zero-shot", "joint", "next-item", "validation")
METRICS = ("auc", *(f"{metric}@{n}" for metric in ("hit", "ndcg", "mrr") for n in (5, 10, 20, 50)))
CONFIG = Config(model=Model(max_length=MAX_LENGTH))
_RNG = np.random.default_rng(0)
SEEN_AS, ITEM, PROFILE = (_RNG.integers(-2, 3, (n, DIM)) for n in (ITEMS, ITEMS, max(ATTRIBUTES.values())))
"""Small whole numbers: sums are exact in float32, and many scores tie."""


def user_vector(history: list[int], profile: list[int]) -> np.ndarray:
    """Sum of the history's vectors, the most recent counting 1, the one before 2, …, and of the profile's."""
    recent = history[-MAX_LENGTH:][::-1]
    return sum(((age + 1) * SEEN_AS[item] for age, item in enumerate(recent)), np.zeros(DIM, np.int64)) + sum(
        PROFILE[value] for value in profile
    )


@dataclasses.dataclass
class IntegerScorer:
    """:func:`user_vector`, from what a batch says."""

    device: torch.device = CPU
    spoil: Callable[[Tensor], Tensor] = lambda vectors: vectors
    needs_clicks: bool = False

    def user_vectors(self, batch: Batch) -> Tensor:
        rows = batch.history.items.split(batch.history.lengths.tolist())
        found = []
        for length, row in zip(batch.context_lengths.tolist(), batch.user_rows.tolist(), strict=True):
            history = batch.item_ids[rows[row][:length]].tolist()
            found.append(user_vector(history, batch.profile[:, row].tolist()))
        return self.spoil(torch.tensor(np.array(found).reshape(-1, DIM), dtype=torch.float32))

    def item_vectors(self, ids: Tensor) -> Tensor:
        return torch.from_numpy(ITEM).float()[ids]

    def own_items(self, items: int) -> Iterator[tuple[int, Tensor]]:
        return scoring.looked_up_in_turn(self, items)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "data"
    write_data(folder, {"pretrain": WARM, "tune-test": COLD}, items=ITEMS, per_shard=6)
    return folder


def small_chunks() -> None:
    """Several chunks of items, of users and of steps, as a large catalogue has."""
    scoring.ITEM_CHUNK["cpu"], scoring.SCORE_CHUNK["cpu"], scoring.QUERY_BLOCK = 37, 400, 20


def evaluate_all(
    context: DistributedContext, data: Path
) -> dict[tuple[str, str, bool], tuple[dict[str, Any], list[tuple[int, ...]]]]:
    small_chunks()
    gathered, gather = [], ranking.gather_queries

    def spy(*given: Any) -> Any:
        gathered.append(gather(*given))
        return gathered[-1]

    ranking.gather_queries = spy
    found = {}
    for task in TASKS:
        for protocol in ("full", "sampled-99"):
            for seen_targets in (True, False):
                rows: list[tuple[int, ...]] = []
                metrics = evaluate(
                    IntegerScorer(),
                    data,
                    load_manifest(data),
                    context,
                    task=task,
                    protocol=protocol,  # type: ignore[arg-type]
                    config=CONFIG,
                    metrics=METRICS,
                    seed=SEED,
                    batch=8,
                    seen_targets=seen_targets,
                    keep=lambda ranked, rows=rows: rows.extend(listed(ranked)),  # type: ignore[misc]
                )
                found[task, protocol, seen_targets] = (metrics, rows)
    # Whatever the number of ranks, a pass over the catalogue holds no more.
    assert 0 < max(len(queries.users) for queries in gathered) <= scoring.QUERY_BLOCK
    return found


def listed(ranked: Evaluated) -> list[tuple[int, ...]]:
    """(user, position, item, rank, candidates) of each."""
    return list(zip(*(getattr(ranked, f.name).tolist() for f in dataclasses.fields(ranked)), strict=True))


def instances_by_hand(task: str) -> list[tuple[Users, int, int]]:
    """(users, row, clicks before the target)."""
    found = []
    users = WARM if task in ("next-item", "validation") else COLD
    for row in range(len(users)):
        clicks = len(clicks_of(users, row))
        if task in ("zero-shot", "joint") and clicks:
            found.append((users, row, 0))
        if task in ("few-shot", "joint"):
            found += [(users, row, context) for context in range(1, clicks)]
        if task == "next-item" and clicks >= 2:
            found.append((users, row, clicks - 1))
        if task == "validation" and clicks >= 3:
            found.append((users, row, clicks - 2))
    return found


@functools.cache
def by_hand(task: str, protocol: str, seen_targets: bool) -> tuple[dict[str, float], list[tuple[int, ...]]]:
    """Metrics and (user, position, item, rank, candidates), one instance at a time."""
    seen = 0
    rows, asked, sums = [], set(), dict.fromkeys(METRICS, 0.0)
    for users, row, context in instances_by_hand(task):
        clicks = clicks_of(users, row)
        history, target = clicks[:context], clicks[context]
        seen += target in history
        if target in history and not seen_targets:
            continue
        vector = user_vector(history, users.attributes[:, row].tolist())
        scores = ITEM @ vector
        if protocol == "full":
            others = [item for item in range(ITEMS) if item not in history and item != target]
        else:
            one = select(users, [row])
            others = sampled_negatives(Instances(one, np.array([0]), np.array([context])), ITEMS, 99, SEED)[0].tolist()
            assert not set(others) & set(clicks)
        rank = 1 + sum(scores[item] >= scores[target] for item in others)
        rows.append((int(users.index[row]), context, target, rank, len(others) + 1))
        asked.add(int(users.index[row]))
        sums["auc"] += sum(scores[item] < scores[target] for item in others) / len(others)
        for n in (5, 10, 20, 50):
            if rank <= n:
                sums[f"hit@{n}"] += 1
                sums[f"ndcg@{n}"] += 1 / math.log2(rank + 1)
                sums[f"mrr@{n}"] += 1 / rank
    counts = {"users": len(asked), "instances": len(rows), "ranked_last": 0}
    counts |= {"seen_targets": seen, "left_out": 0 if seen_targets else seen}
    return counts | {k: v / len(rows) for k, v in sums.items()}, rows


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_metrics_are_those_of_a_loop_over_instances(world_size: int, data: Path) -> None:
    ranks = run_ranks(evaluate_all, world_size, data)
    for task, protocol, seen_targets in ranks[0]:
        want, rows = by_hand(task, protocol, seen_targets)
        # Rank after rank: the order of (user index, position).
        assert [row for rank in ranks for row in rank[task, protocol, seen_targets][1]] == rows
        for rank in ranks:
            metrics = dict(rank[task, protocol, seen_targets][0])
            assert (metrics.pop("task"), metrics.pop("protocol")) == (task, protocol)
            assert metrics.pop("target_time") is False
            assert metrics.keys() == want.keys()
            assert metrics == pytest.approx(want, rel=1e-12)


def test_the_data_has_ties_and_repeated_clicks_to_get_wrong() -> None:
    ties = again = 0
    for users, row, context in instances_by_hand("few-shot"):
        clicks = clicks_of(users, row)
        vector = user_vector(clicks[:context], users.attributes[:, row].tolist())
        ties += int(((ITEM @ vector) == ITEM[clicks[context]] @ vector).sum() > 1)
        again += clicks[context] in clicks[:context]
    assert ties > 20
    assert again > 1


def spoiled(context: DistributedContext, data: Path) -> list[dict[str, Any]]:
    small_chunks()
    found = []
    for value in (0.0, float("nan")):
        scorer = IntegerScorer(spoil=lambda vectors, value=value: vectors * value)  # type: ignore[misc]
        for protocol in ("full", "sampled-99"):
            metrics = evaluate(
                scorer,
                data,
                load_manifest(data),
                context,
                task="joint",
                protocol=protocol,  # type: ignore[arg-type]
                config=CONFIG,
            )
            found.append(metrics)
    return found


def test_a_model_that_says_nothing_is_last(data: Path) -> None:
    # All scores equal, or not numbers at all (a run that diverged): no target may come out ahead.
    for metrics in run_ranks(spoiled, 2, data)[0]:
        assert metrics["auc"] == metrics["hit@50"] == metrics["ndcg@50"] == 0


def nothing_to_rank(context: DistributedContext, data: Path) -> str:
    with pytest.raises(UserError) as error:
        evaluate(IntegerScorer(), data, load_manifest(data), context, task="few-shot", protocol="full", config=CONFIG)
    return str(error.value)


def test_a_split_without_instances_is_one_error_on_every_rank(tmp_path: Path) -> None:
    write_data(tmp_path / "d", {"tune-test": random_users(3, ITEMS, longest=1)}, items=ITEMS, per_shard=2)
    assert all("no few-shot instance" in error for error in run_ranks(nothing_to_rank, 2, tmp_path / "d"))


def by_clicks_alone(context: DistributedContext, data: Path) -> dict[str, dict[str, Any]]:
    """Metrics by task of a model that knows no profiles."""
    scorer = IntegerScorer(needs_clicks=True)
    manifest, options = load_manifest(data), {"protocol": "full", "config": CONFIG}
    return {task: evaluate(scorer, data, manifest, context, task=task, **options) for task in ("zero-shot", "joint")}  # type: ignore[arg-type]


def test_users_whom_a_model_knows_nothing_of_are_counted(data: Path) -> None:
    for by_task in run_ranks(by_clicks_alone, 2, data):
        zero_shot, joint = by_task["zero-shot"], by_task["joint"]
        assert zero_shot["ranked_last"] == zero_shot["instances"] == joint["ranked_last"] > 0
        assert joint["instances"] > joint["ranked_last"]
        assert zero_shot["auc"] is zero_shot["hit@10"] is None  # not defined
        assert joint["auc"] is not None


def with_a_bot(context: DistributedContext, data: Path) -> tuple[dict[str, Any], str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        metrics = evaluate(
            IntegerScorer(), data, load_manifest(data), context, task="next-item", protocol="sampled-99", config=CONFIG
        )
    return metrics, said.getvalue()


def test_a_bot_that_clicked_everything_refuses_nobody_else(tmp_path: Path) -> None:
    few = random_users(7, ITEMS, shortest=2, longest=9)
    bot = np.arange(ITEMS)[: ITEMS - 98]  # one item too many
    often = np.repeat(np.arange(50), 40)  # 2,000 clicks, but 50 items
    users = Users(
        index=np.arange(9),
        items=np.concatenate([few.items, bot, often]),
        offsets=np.concatenate([few.offsets, few.offsets[-1] + np.cumsum([len(bot), len(often)])]),
        attributes=np.zeros((2, 9), np.int64),
    )
    write_data(tmp_path / "d", {"pretrain": users}, items=ITEMS, per_shard=4)
    (metrics, said), (same, silent) = run_ranks(with_a_bot, 2, tmp_path / "d")
    assert metrics == same
    assert (metrics["users"], metrics["instances"], metrics["left_out"]) == (8, 8, 1)
    assert said.count("\n") == 1
    assert "1 of 9 next-item instances are left out: their users leave fewer than 99 items unclicked" in said
    assert silent == ""


# Top k --------------------------------------------------------------------------------------------------------

CATALOGUE = 90
QUERY, WEIGHT = (np.random.default_rng(n).normal(size=(rows, 5)) for n, rows in ((1, 11), (2, CATALOGUE)))
SEEN = {user: np.random.default_rng(user).choice(CATALOGUE, 3 * user, replace=False).tolist() for user in range(11)}


@dataclasses.dataclass
class _Vectors:
    device: torch.device = CPU

    def item_vectors(self, ids: Tensor) -> Tensor:
        return torch.from_numpy(WEIGHT).float()[ids]

    def own_items(self, items: int) -> Iterator[tuple[int, Tensor]]:
        return scoring.looked_up_in_turn(self, items)


def best(context: DistributedContext, k: int, catalogue: int) -> tuple[np.ndarray, np.ndarray, slice]:
    scoring.ITEM_CHUNK["cpu"], scoring.SCORE_CHUNK["cpu"] = 16, 70
    low, high = context.rank * 11 // context.world_size, (context.rank + 1) * 11 // context.world_size
    pairs = [(user - low, item) for user in range(low, high) for item in SEEN[user] if item < catalogue]
    rows, items = np.array(pairs, np.int64).reshape(-1, 2).T
    queries = gather_queries(torch.from_numpy(QUERY[low:high]).float(), rows, items)
    ids, scores = top_k(_Vectors(), queries, catalogue, k)  # type: ignore[arg-type]
    return ids.numpy(), scores.numpy(), queries.mine


@pytest.mark.parametrize(("k", "catalogue"), [(10, CATALOGUE), (20, 12)])
@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.exhaustive), 3])
def test_top_k_is_that_of_sorting_everything(world_size: int, k: int, catalogue: int) -> None:
    ranks = run_ranks(best, world_size, k, catalogue)
    for ids, scores, mine in ranks:
        assert len(ids) == mine.stop - mine.start
        for row, user in enumerate(range(11)[mine]):
            left = [item for item in range(catalogue) if item not in SEEN[user]]
            want = sorted(left, key=lambda item: -(QUERY[user] @ WEIGHT[item]))[:k]
            missing = k - len(want)
            assert ids[row].tolist() == want + [-1] * missing
            np.testing.assert_allclose(scores[row, : len(want)], WEIGHT[want] @ QUERY[user], rtol=1e-5, atol=1e-6)
            assert (scores[row, len(want) :] == -np.inf).all()
    found = [user for _, _, mine in ranks for user in range(11)[mine]]
    assert found == list(range(11))


# The trained model as scorer ----------------------------------------------------------------------------------


def with_model(context: DistributedContext, data: Path) -> tuple[dict[str, Any], dict[tuple[int, int], int], list[Any]]:
    """Metrics; rank of each (user, target); on one rank also (user, target, how far each other item is ahead)."""
    small_chunks()
    config = Config(
        model=Model(dim=8, max_length=MAX_LENGTH, dropout=0.0),
        profiles=Profiles(hidden=8, attribute_dim=8),
        tables=Tables(optimizer="sgd", init_std=1.0),
        parts=parts(sasrec={"layers": 1}, prompt={"hidden": 8}),
    )
    catalogue = Catalogue(items=ITEMS, attributes=ATTRIBUTES)
    torch.manual_seed(0)
    model = untuned_model(config, catalogue).eval()
    attach(model, "ppr-full", config, catalogue)
    assert model.profile_encoder is not None
    model.profile_encoder.second.reset_parameters()  # as if trained: it begins at 0
    embeddings = make_embeddings(table_sizes(config, catalogue, "ppr-full"), config, context)
    scorer = ModelScorer(embeddings, model, context.device)
    rows: list[tuple[int, ...]] = []
    metrics = evaluate(
        scorer,
        data,
        load_manifest(data),
        context,
        task="zero-shot",
        protocol="full",
        config=config,
        keep=lambda ranked: rows.extend(listed(ranked)),
    )
    ranks = {(user, item): rank for user, _, item, rank, _ in rows}
    margins = []
    if context.world_size == 1:
        items = scorer.item_vectors(torch.arange(ITEMS)).double().detach().numpy()
        for users, row, context_length in instances_by_hand("zero-shot"):
            one = Instances(select(users, [row]), np.array([0]), np.array([context_length]))
            vector = scorer.user_vectors(history_batch(one, MAX_LENGTH))[0].double().detach().numpy()
            target = clicks_of(users, row)[context_length]
            scores = items @ vector
            ahead = np.delete(scores, target) - scores[target]
            margins.append((int(users.index[row]), target, ahead))
    return metrics, ranks, margins


def test_the_model_ranks_alike_on_any_number_of_ranks_and_like_its_vectors_say(data: Path) -> None:
    ((one, ranks, margins),) = run_ranks(with_model, 1, data)
    assert len(margins) == len(ranks) > 10
    for user, target, ahead in margins:
        assert (ahead > 1e-5).sum() <= ranks[user, target] - 1 <= (ahead > -1e-5).sum()
    for world_size in (2, 3):
        ranks_again: dict[tuple[int, int], int] = {}
        for metrics, mine, _ in run_ranks(with_model, world_size, data):
            assert metrics["auc"] == pytest.approx(one["auc"], rel=1e-12)
            ranks_again |= mine
        assert ranks_again == ranks
