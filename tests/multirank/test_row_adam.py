"""Adam for tables on a CPU, sharded in every way, against ``torch.optim.SparseAdam`` on whole tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppr_dist.config import Config, Tables
from ppr_dist.parallel.apply import make_embeddings
from ppr_dist.parallel.distributed import DistributedContext
from tests.multirank.test_sharding_kinds import KINDS, SIZES, asked, cluster_file, look_up, pull, whole
from tests.ranks import run_ranks

LR, EPS, SHARES = 0.125, 2.0**-20, (0.25, 0.5, 1.0, 1.0, 1.0)  # exact in float32; a warm-up


def asked_in(rank: int, step: int) -> tuple[Tensor, Tensor]:
    """As :func:`asked`, other rows in each step; in one of them the last rank asks for no item."""
    items, profile = asked(rank, step)
    return items[:0] if step == 2 and rank else items, profile


def steps(context: DistributedContext, files: list[Path], precision: str) -> list[dict[str, Any]]:
    """Tables and moments before and after some steps under each cluster file."""
    found = []
    for file in files:
        settings = Tables(optimizer="adam", lr=LR, eps=EPS, init_std=0.3, cluster=file, precision=precision)  # type: ignore[arg-type]
        tables = make_embeddings(SIZES, Config(tables=settings), context)
        before = whole(tables)
        for step, share in enumerate(SHARES):
            tables.scale_lr(share)
            items, profiles = look_up(tables, *asked_in(context.rank, step))
            (context.world_size * sum(pull(v) for v in (items["id"], *profiles.values()))).backward()
        counted = {name: int(step) for name, step in tables.optimizer_steps().items()}
        found.append({"before": before, "after": whole(tables), "counted": counted})
    return found


def reference(before: dict[str, np.ndarray], world_size: int) -> dict[str, np.ndarray]:
    """The same steps with ``nn.Embedding(sparse=True)``, autograd and torch's optimizer."""
    tables = {n: nn.Embedding.from_pretrained(torch.tensor(w), freeze=False, sparse=True) for n, w in before.items()}
    optimizer = torch.optim.SparseAdam([table.weight for table in tables.values()], lr=LR, eps=EPS)
    for step, share in enumerate(SHARES):
        optimizer.param_groups[0]["lr"] = LR * share
        optimizer.zero_grad()
        for rank in range(world_size):
            items, profile = asked_in(rank, step)
            pull(tables["item"](items)).backward()
            for use in SIZES.uses:
                parts = []
                for name, values in zip(SIZES.attributes, profile, strict=True):  # each value once, as it travels
                    distinct, where = values.unique(return_inverse=True)
                    parts.append(tables[f"{use}:{name}"](distinct)[where])
                pull(torch.cat(parts, dim=1)).backward()
        optimizer.step()
    return {name: table.weight.detach().numpy() for name, table in tables.items()}


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_rows_move_as_under_sparse_adam(world_size: int, tmp_path: Path) -> None:
    files = [cluster_file(tmp_path, kind, kind) for kind in KINDS]
    ranks = run_ranks(steps, world_size, files, "float32")
    for case, kind in enumerate(KINDS):
        want = reference(ranks[0][case]["before"], world_size)
        for rank in ranks:
            assert rank[case]["counted"] == {"items": len(SHARES), "profiles": len(SHARES)}
            for name, table in want.items():
                start, after = rank[case]["before"][name], rank[case]["after"][name]
                assert np.abs(table - start).max() > 0.2
                if world_size == 1:
                    np.testing.assert_array_equal(after, table, err_msg=f"{kind} {name}")
                np.testing.assert_allclose(after, table, rtol=1e-5, atol=1e-6, err_msg=f"{kind} {name}")


def test_items_in_half_precision_move_as_the_nearest_of_what_float32_would(tmp_path: Path) -> None:
    files = [cluster_file(tmp_path, "row_wise", "row_wise")]
    ((half,), (full,)) = (run_ranks(steps, 1, files, precision)[0] for precision in ("float16", "float32"))
    assert np.abs(half["after"]["item"] - half["after"]["item"].astype(np.float16)).max() == 0
    np.testing.assert_allclose(half["after"]["item"], full["after"]["item"], atol=5e-3)
    np.testing.assert_array_equal(half["after"]["prompt:city"], full["after"]["prompt:city"])
