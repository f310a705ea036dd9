"""Evaluation of one task under one protocol, exact over any number of ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ppr_dist.config import Task
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.stream.instances import (
    Instances,
    clicked_before,
    excluded,
    history_batch,
    instances_of,
    sampled_negatives,
    unclicked,
)
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.data.stream.users import Int64Array
from ppr_dist.errors import UserError, warn
from ppr_dist.metrics import finish, metric_sums
from ppr_dist.parallel.collectives import all_sum
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.scoring import Scorer, gather_queries, passes, rank_among, rank_in_catalogue

Protocol = Literal["sampled-99", "full"]
NEGATIVES = 99


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Ranked instances, one entry each, in the order of (user, position)."""

    users: Int64Array
    """User index."""
    positions: Int64Array
    """Clicks before the target."""
    items: Int64Array
    """The target."""
    ranks: Int64Array
    """1 = best."""
    candidates: Int64Array
    """How many were ranked, the target included."""


@torch.no_grad()
def evaluate(
    scorer: Scorer,
    folder: Path,
    manifest: Manifest,
    context: DistributedContext,
    *,
    task: Task,
    protocol: Protocol,
    max_length: int,
    split: str | None = None,
    seed: int = 0,
    batch: int = 1024,
    seen_targets: bool = True,
    keep: Callable[[Evaluated], None] | None = None,
    progress: bool = False,
) -> dict[str, float | int | str]:
    """Rank every instance of ``task``; return the metrics over all ranks. A collective.

    Memory does not grow with users or ranks.

    Args:
        split: by default the task's, pretrain or tune-test; seed: of the sampled negatives; batch: users each rank
        reads at once; seen_targets: whether targets that the user had clicked before are ranked too; keep: hears this
        rank's instances, block after block. Ranks hold consecutive users, so that the blocks of all ranks, rank after
        rank, are in the order of (user index, position).

    Raises :class:`UserError` where the split has no instances, or none leaves enough items to sample from.
    """
    split = split or ("pretrain" if task in ("next-item", "validation") else "tune-test")
    steps, parts = users_in_order(
        folder, manifest, split, rank=context.rank, world_size=context.world_size, at_once=max(1, batch)
    )
    sums = metric_sums(*(torch.zeros(0, dtype=torch.int64),) * 2)
    users = found = seen = left_out = unsampled = 0
    hidden = None if progress and context.main else True
    for part in tqdm(parts, total=steps, desc=f"{task} {protocol}", disable=hidden):
        instances = instances_of(part, task)
        again = clicked_before(instances)
        found, seen = found + len(again), seen + int(again.sum())
        if not seen_targets:
            instances = instances.select(~again)
        if protocol == "sampled-99":
            enough = unclicked(instances, manifest.items) >= NEGATIVES
            unsampled += int((~enough).sum())
            instances = instances.select(enough)
        left_out += len(again) - len(instances.owner)
        vectors = scorer.user_vectors(history_batch(instances, max_length))
        for rows in passes(len(vectors), scorer.device, gathered=protocol == "full"):
            ranked = _rank(scorer, instances.select(rows), vectors[rows], manifest.items, protocol, seed)
            sums += metric_sums(torch.from_numpy(ranked.ranks), torch.from_numpy(ranked.candidates))
            if keep:
                keep(ranked)
        users += len(np.unique(instances.owner))
    counts = torch.tensor([users, found, seen, left_out, unsampled], dtype=torch.float64)
    *total, users, found, seen, left_out, unsampled = all_sum(torch.cat([sums, counts]).to(context.device)).tolist()
    if not total[0]:
        reason = f"no {task} instance in split {split!r}"
        if unsampled:
            reason = (
                f"no user leaves {NEGATIVES} of {manifest.items} items unclicked to sample from; use --protocol full"
            )
        elif found:
            reason = f"every {task} target was clicked before"
        raise UserError(f"{folder}: {reason}")
    if unsampled and context.main:
        few = (
            f"{int(unsampled)} of {int(found)} {task} instances are left out: their users leave fewer than {NEGATIVES}"
        )
        warn(f"{few} items unclicked to sample from")
    metrics = finish(torch.tensor(total, dtype=torch.float64))
    counted = {"seen_targets": int(seen), "left_out": int(left_out)}
    return {"task": task, "protocol": protocol, "users": int(users), **metrics, **counted}


def _rank(
    scorer: Scorer, instances: Instances, vectors: Tensor, items: int, protocol: Protocol, seed: int
) -> Evaluated:
    """Rank one pass of instances, given their user vectors [I, D]. A collective."""
    targets = torch.from_numpy(instances.targets).to(scorer.device)
    if protocol == "full":
        rows, dropped = excluded(instances)
        queries = gather_queries(vectors, rows, dropped)
        ranks = rank_in_catalogue(scorer, queries, targets, items).cpu().numpy()
        candidates = items - np.bincount(rows, minlength=len(ranks)) + 1
        ranks = np.minimum(ranks, candidates)  # more only where scores are not numbers
    else:
        negatives = torch.from_numpy(sampled_negatives(instances, items, NEGATIVES, seed)).to(scorer.device)
        ranks = rank_among(scorer, vectors, targets, negatives).cpu().numpy()
        candidates = np.full(len(ranks), NEGATIVES + 1)
    users = instances.users.index[instances.owner]
    return Evaluated(users, instances.prefix, instances.targets, ranks, candidates)
