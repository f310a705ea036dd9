"""Evaluation of one task under one protocol, exact over any number of ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ppr_dist.data.instances import Task, excluded, history_batch, instances_of, sampled_negatives
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.stream import UserStream
from ppr_dist.data.users import Int64
from ppr_dist.errors import UserError
from ppr_dist.metrics import finish, metric_sums
from ppr_dist.parallel.collectives import all_gather_ragged, all_sum
from ppr_dist.parallel.mesh import Mesh
from ppr_dist.scoring import Scorer, gather_queries, rank_among, rank_in_catalogue

Protocol = Literal["sampled-99", "full"]
NEGATIVES = 99
QUERY_BLOCK = 4_096
"""Instances of one rank ranked in one pass over the catalogue."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Ranks of this rank's instances, one entry each."""

    users: Int64
    items: Int64
    ranks: Int64
    candidates: Int64


@dataclasses.dataclass(frozen=True)
class _Block:
    vectors: Tensor
    users: Int64
    targets: Int64
    rows: Int64
    items: Int64
    negatives: Int64


@torch.no_grad()
def evaluate(
    scorer: Scorer,
    folder: Path,
    manifest: Manifest,
    mesh: Mesh,
    *,
    task: Task,
    protocol: Protocol,
    max_length: int,
    seed: int = 0,
    batch: int = 1024,
    progress: bool = False,
) -> tuple[dict[str, float | int | str], Evaluated]:
    """Rank every instance of ``task``; return the metrics over all ranks, and this rank's ranks. A collective.

    Args:
        batch: users read at once by all ranks; seed: of the sampled negatives.

    Raises :class:`UserError` where the split has no instances, or too few items to sample from.
    """
    split = "pretrain" if task in ("next-item", "validation") else "tune-test"
    stream = UserStream(
        folder,
        manifest,
        split,
        batch=max(batch, mesh.world_size),
        rank=mesh.rank,
        world_size=mesh.world_size,
        shuffle=False,
        shuffle_shards=1,
    )
    done: list[Evaluated] = []
    users = 0
    for block in _blocks(scorer, stream, manifest, task, protocol, max_length, seed, progress and mesh.main):
        if protocol == "full":
            queries = gather_queries(block.vectors, block.rows, block.items)
            targets = all_gather_ragged(torch.from_numpy(block.targets).to(scorer.device))
            ranks = rank_in_catalogue(scorer, queries, targets, manifest.items)[queries.mine].cpu().numpy()
            candidates = manifest.items - np.bincount(block.rows, minlength=len(ranks)) + 1
            ranks = np.minimum(ranks, candidates)  # more only where scores are not numbers
        else:
            targets = torch.from_numpy(block.targets).to(scorer.device)
            negatives = torch.from_numpy(block.negatives).to(scorer.device)
            ranks = rank_among(scorer, block.vectors, targets, negatives).cpu().numpy()
            candidates = np.full(len(ranks), NEGATIVES + 1)
        done.append(Evaluated(block.users, block.targets, ranks, candidates))
        users += len(np.unique(block.users))
    mine = Evaluated(*(np.concatenate([getattr(d, f.name) for d in done]) for f in dataclasses.fields(Evaluated)))
    sums = metric_sums(torch.from_numpy(mine.ranks), torch.from_numpy(mine.candidates))
    sums = all_sum(torch.cat([sums, torch.tensor([users], dtype=torch.float64)]).to(mesh.device))
    if sums[0] == 0:
        raise UserError(f"{folder}: no {task} instance in split {split!r}")
    return {"task": task, "protocol": protocol, "users": int(sums[-1]), **finish(sums[:-1])}, mine


def _blocks(
    scorer: Scorer,
    stream: UserStream,
    manifest: Manifest,
    task: Task,
    protocol: Protocol,
    max_length: int,
    seed: int,
    progress: bool,
) -> Iterator[_Block]:
    """User vectors, a block of steps at a time: few passes over the catalogue, all ranks in step."""
    most_instances = stream.capacity * max(1, manifest.cold_threshold)
    steps_per_block = max(1, QUERY_BLOCK // most_instances)
    steps = tqdm(
        stream.batches(0, range(stream.steps)),
        total=stream.steps,
        desc=f"{task} {protocol}",
        disable=None if progress else True,
    )
    gathered: list[_Block] = []
    for step, _, users in steps:
        instances = instances_of(users, task)
        vectors = scorer.user_vectors(history_batch(instances, max_length))
        rows, items = excluded(instances) if protocol == "full" else (np.zeros(0, np.int64),) * 2
        sample = protocol == "sampled-99"
        negatives = (
            sampled_negatives(instances, manifest.items, NEGATIVES, seed) if sample else np.zeros((0, 0), np.int64)
        )
        before = sum(len(block.users) for block in gathered)
        owners = users.index[instances.owner]
        gathered.append(_Block(vectors, owners, instances.targets, rows + before, items, negatives))
        if (step + 1) % steps_per_block == 0 or step + 1 == stream.steps:
            columns = [[getattr(block, f.name) for block in gathered] for f in dataclasses.fields(_Block)]
            yield _Block(torch.cat(columns[0]), *(np.concatenate(column) for column in columns[1:]))
            gathered = []
