"""Tables sharded in every way, by the YAML a user writes, against plain torch embeddings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from ppr_dist.batch import Batch, History, distinct_values
from ppr_dist.config import Config, Tables
from ppr_dist.parallel.apply import make_embeddings, refuse_tables
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.embeddings import ShardedEmbeddings
from ppr_dist.parallel.tables import TableSizes, profile_table
from tests.ranks import run_ranks

SIZES = TableSizes(
    items=61,
    dim=16,
    attributes={"age": 5, "city": 19},
    columns=(0, 1),
    attribute_dim=8,
    uses=("prompt", "profile_encoder"),
)
ROWS = {"item": SIZES.items} | {
    profile_table(use, name): rows for use in SIZES.uses for name, rows in SIZES.attributes.items()
}
LR, EPS, STEPS, USERS = 0.3, 1e-3, 2, 6
KINDS = ("row_wise", "column_wise", "table_wise")


def cluster_file(folder: Path, item: str, profile: str) -> Path:
    path = folder / f"{item}-{profile}.yaml"
    body: dict[str, Any] = {
        "name": "test",
        "compute_device": "cpu",
        "nodes": 1,
        "ranks_per_node": 4,
        "hbm_gb": 0,
        "host_memory_gb": 4,
        "intra_node_gb_per_s": 10,
        "inter_node_gb_per_s": 1,
        "reserved_fraction": 0.1,
        "constraints": {"item": {"sharding_types": [item]}, "profile": {"sharding_types": [profile]}},
    }
    path.write_text(yaml.safe_dump(body))
    return path


def asked(rank: int, step: int) -> tuple[Tensor, Tensor]:
    """Item ids [U] (distinct, as the loader gives them; the ranks' overlap) and profile values [A, B] of a rank."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    items = torch.randperm(SIZES.items, generator=generator)[: 20 + rank]
    profile = torch.stack([torch.randint(n, (USERS,), generator=generator) for n in SIZES.attributes.values()])
    return items, profile


def pull(vectors: Tensor) -> Tensor:
    """A loss whose gradient differs by row, column and value, so that a second step shows the first."""
    weight = torch.linspace(0.5, 1.5, vectors.shape[1]) * torch.linspace(1.0, 2.0, len(vectors))[:, None]
    return (weight * (vectors - 0.5) ** 2).sum()


def look_up_profiles(embeddings: ShardedEmbeddings, profile: Tensor) -> dict[str, Tensor]:
    """x_u [B, A·d] by use, of value indices [A, B]; no items."""
    return look_up(embeddings, torch.zeros(0, dtype=torch.int64), profile)[1]


def look_up(
    embeddings: ShardedEmbeddings, items: Tensor, profile: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Rows of items [U] by name, and x_u [B, A·d] by use, of value indices [A, B]: in one step."""
    nothing = torch.zeros(0, dtype=torch.int64)
    batch = Batch(
        users=nothing,
        item_ids=items,
        history=History(items=nothing, lengths=nothing, buckets=()),
        user_rows=nothing,
        context_lengths=nothing,
        targets=nothing,
        **distinct_values(profile.numpy()),
    )
    rows, profiles, _ = embeddings.look_up_batch(batch)
    return rows, profiles


def whole(embeddings: ShardedEmbeddings) -> dict[str, np.ndarray]:
    """Every table looked up in full; on all ranks."""
    sizes = embeddings.sizes
    with torch.no_grad():
        found = {"item": embeddings.look_up_items(torch.arange(sizes.items))["id"].numpy()}
        for number, (name, rows) in enumerate(sizes.attributes.items()):
            profile = torch.zeros(len(sizes.attributes), rows, dtype=torch.int64)
            profile[number] = torch.arange(rows)
            for use, x_u in look_up_profiles(embeddings, profile).items():
                columns = slice(number * sizes.attribute_dim, (number + 1) * sizes.attribute_dim)
                found[profile_table(use, name)] = x_u[:, columns].numpy()
    return {name: table.copy() for name, table in found.items()}


def update(
    context: DistributedContext, optimizer: str, files: list[Path], exchange: str = "float32"
) -> list[dict[str, Any]]:
    """Tables before and after two steps under each cluster file."""
    found = []
    for file in files:
        settings = Tables(optimizer=optimizer, lr=LR, eps=EPS, init_std=0.3, cluster=file, exchange=exchange)  # type: ignore[arg-type]
        tables = make_embeddings(SIZES, Config(tables=settings), context)
        exact = dataclasses.replace(settings, exchange="float32")
        before = whole(make_embeddings(SIZES, Config(tables=exact), context) if exchange == "bfloat16" else tables)
        for step in range(STEPS):
            items, profile = asked(context.rank, step)
            vectors = [tables.look_up_items(items)["id"], *look_up_profiles(tables, profile).values()]
            # Each rank's loss is its part of a sum, scaled by W as step_loss does.
            (context.world_size * sum(pull(v) for v in vectors)).backward()
        kinds = {table["name"]: table["sharding_type"] for table in tables.plan["tables"]}
        shards = {table["name"]: len(table["shards"]) for table in tables.plan["tables"]}
        own = [(name, weight.numpy().copy(), row, column) for name, weight, row, column in tables.local_shards()]
        found.append({"before": before, "after": whole(tables), "kinds": kinds, "shards": shards, "own": own})
    return found


class Rounded(torch.autograd.Function):
    """To bfloat16 and back, the vectors and W times their gradients (which TorchRec divides by W after the journey)."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, world_size: int) -> Tensor:
        ctx.world_size = world_size
        return vectors.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad * ctx.world_size).bfloat16().float() / ctx.world_size, None


def reference(
    before: dict[str, np.ndarray], optimizer: str, world_size: int, exchange: str = "float32"
) -> dict[str, np.ndarray]:
    """The same two steps with ``nn.Embedding``, dense autograd and the optimizer written out."""

    def rows(name: str, ids: Tensor) -> Tensor:
        """Each distinct row once, as it travels."""
        distinct, where = ids.unique(return_inverse=True)
        vectors = tables[name](distinct)
        return (Rounded.apply(vectors, world_size) if exchange == "bfloat16" else vectors)[where]

    tables = {name: nn.Embedding.from_pretrained(torch.tensor(w), freeze=False) for name, w in before.items()}
    sums = {name: torch.zeros(len(w), 1) for name, w in before.items()}
    for step in range(STEPS):
        loss = torch.zeros(())
        for rank in range(world_size):
            items, profile = asked(rank, step)
            loss = loss + pull(rows("item", items))
            for use in SIZES.uses:
                parts = [
                    rows(profile_table(use, a), values) for a, values in zip(SIZES.attributes, profile, strict=True)
                ]
                loss = loss + pull(torch.cat(parts, dim=1))
        loss.backward()
        for name, table in tables.items():
            g = table.weight.grad
            assert g is not None
            with torch.no_grad():
                if optimizer == "sgd":
                    table.weight -= LR * g
                else:  # row-wise Adagrad: one sum of mean squares per row (FBGEMM)
                    sums[name] += (g**2).mean(dim=1, keepdim=True)
                    table.weight -= LR * g / (sums[name].sqrt() + EPS)
            table.weight.grad = None
    return {name: table.weight.detach().numpy() for name, table in tables.items()}


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.exhaustive), 3])
@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
def test_tables_move_like_plain_embeddings(optimizer: str, world_size: int, tmp_path: Path) -> None:
    # Row-wise optimizers keep one number per row and column shard (sharding/README.md): not column-wise.
    kinds = KINDS if optimizer == "sgd" else ("row_wise", "table_wise")
    files = [cluster_file(tmp_path, kind, kind) for kind in kinds]
    ranks = run_ranks(update, world_size, optimizer, files)
    for case, kind in enumerate(kinds):
        first = ranks[0][case]
        assert set(first["before"]) == set(ROWS)
        if world_size == 2:
            assert set(first["kinds"].values()) == {kind}
            assert first["shards"]["item"] == (1 if kind == "table_wise" else 2)
        want = reference(first["before"], optimizer, world_size)
        for rank in ranks:
            for name, table in want.items():
                assert table.shape[0] == ROWS[name]
                np.testing.assert_array_equal(rank[case]["before"][name], first["before"][name])
                assert np.abs(table - first["before"][name]).max() > 0.05
                np.testing.assert_allclose(
                    rank[case]["after"][name], table, rtol=1e-5, atol=1e-5, err_msg=f"{kind} {name}"
                )


def test_vectors_and_their_gradients_travel_in_bfloat16(tmp_path: Path) -> None:
    files = [cluster_file(tmp_path, kind, kind) for kind in KINDS]
    ranks = run_ranks(update, 2, "sgd", files, "bfloat16")
    for case, kind in enumerate(KINDS):
        before = ranks[0][case]["before"]
        tables, plain = (reference(before, "sgd", 2, exchange) for exchange in ("bfloat16", "float32"))
        for name, want in tables.items():
            assert np.abs(want - plain[name]).max() > 1e-3
        # The shards themselves, since a look-up rounds.
        for name, weight, row, column in (shard for rank in ranks for shard in rank[case]["own"]):
            want = tables[name][row : row + weight.shape[0], column : column + weight.shape[1]]
            np.testing.assert_allclose(weight, want, rtol=1e-5, atol=1e-5, err_msg=f"{kind} {name}")


def initial(context: DistributedContext, files: list[Path]) -> list[dict[str, np.ndarray]]:
    settings = [Tables(optimizer="sgd", cluster=file) for file in files]
    return [whole(make_embeddings(SIZES, Config(tables=s), context)) for s in settings]


def test_first_values_depend_on_neither_sharding_nor_ranks(tmp_path: Path) -> None:
    files = [cluster_file(tmp_path, kind, kind) for kind in KINDS]
    one, three = run_ranks(initial, 1, files)[0], run_ranks(initial, 3, files)[0]
    for tables in one + three:
        for name, values in one[0].items():
            np.testing.assert_array_equal(tables[name], values)
    assert 0.01 < one[0]["item"].std() < 0.03
    assert not np.array_equal(one[0]["prompt:city"], one[0]["profile_encoder:city"])


def own_and_looked_up(context: DistributedContext, files: list[Path]) -> list[tuple[Any, np.ndarray]]:
    found = []
    for file in files:
        tables = make_embeddings(SIZES, Config(tables=Tables(optimizer="sgd", cluster=file)), context)
        own = tables.own_rows()
        parts = own if own is None else [(own[0], own[2](0, own[1])["id"].detach().numpy().copy())]
        found.append((parts, whole(tables)["item"]))
    return found


@pytest.mark.parametrize("world_size", [1, 3])
def test_own_rows_of_all_ranks_are_the_table_once(world_size: int, tmp_path: Path) -> None:
    files = [cluster_file(tmp_path, kind, kind) for kind in KINDS]
    ranks = run_ranks(own_and_looked_up, world_size, files)
    for case, kind in enumerate(KINDS):
        whole_rows = kind == "row_wise" or (kind == "table_wise" and world_size == 1)
        assert all((rank[case][0] is not None) == whole_rows for rank in ranks)
        parts = sorted((part for rank in ranks for part in rank[case][0] or []), key=lambda part: part[0])
        if whole_rows:
            assert [first for first, _ in parts] == np.cumsum([0, *(len(rows) for _, rows in parts)])[:-1].tolist()
            np.testing.assert_array_equal(np.concatenate([rows for _, rows in parts]), ranks[0][case][1])


def frozen(context: DistributedContext) -> dict[str, Any]:
    tables = make_embeddings(SIZES, Config(tables=Tables(optimizer="sgd", lr=LR)), context, train_items=False)
    before = whole(tables)
    items, profile = asked(context.rank, 0)
    vectors = tables.look_up_items(items)["id"]
    assert not vectors.requires_grad
    x_u = look_up_profiles(tables, profile)
    assert list(x_u) == ["prompt", "profile_encoder"]
    (pull(vectors) + sum(pull(each) for each in x_u.values())).backward()
    return {"before": before, "after": whole(tables)}


def test_frozen_items_stay_as_they_are() -> None:
    for rank in run_ranks(frozen, 2):
        np.testing.assert_array_equal(rank["after"]["item"], rank["before"]["item"])
        for use in SIZES.uses:
            assert np.abs(rank["after"][f"{use}:age"] - rank["before"][f"{use}:age"]).max() > 0.05


def rates(context: DistributedContext) -> list[float]:
    tables = make_embeddings(SIZES, Config(tables=Tables(optimizer="sgd", lr=LR)), context)
    moved = []
    for share in (1.0, 0.1, 0.0):
        tables.scale_lr(share)
        before = whole(tables)["item"]
        tables.look_up_items(torch.arange(5))["id"].sum().backward()
        moved.append(float(np.abs(whole(tables)["item"] - before).max()))
    return moved


def test_the_learning_rate_reaches_the_kernels() -> None:
    # Without the factor W: one rank's gradient of 1, from both ranks, averaged.
    for moved in run_ranks(rates, 2):
        np.testing.assert_allclose(moved, [LR, LR / 10, 0.0], rtol=1e-4, atol=1e-9)


class _WithTable(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2), table)


@pytest.mark.parametrize(
    "table",
    [
        lambda: nn.Embedding(3, 4),
        lambda: nn.EmbeddingBag(3, 4),
        lambda: EmbeddingCollection(
            tables=[EmbeddingConfig(name="t", num_embeddings=3, embedding_dim=4, feature_names=["t"])]
        ),
    ],
    ids=["Embedding", "EmbeddingBag", "EmbeddingCollection"],
)
def test_no_table_enters_the_engine(table: Any) -> None:
    with pytest.raises(RuntimeError, match=r"inner\.1 is an embedding table"):
        refuse_tables(_WithTable(table()))


def test_a_dense_module_may() -> None:
    refuse_tables(_WithTable(nn.LayerNorm(2)))


def sharded(context: DistributedContext) -> None:
    tables = make_embeddings(
        dataclasses.replace(SIZES, uses=("prompt",)), Config(tables=Tables(optimizer="sgd")), context
    )
    with pytest.raises(RuntimeError, match="is an embedding table"):
        refuse_tables(tables.model)


def test_nor_does_a_sharded_one() -> None:
    run_ranks(sharded, 2)
