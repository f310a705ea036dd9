"""What two ranks receive and compute in a step: bytes by collective, FLOPs of products."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pytest
import torch.distributed as dist

from ppr_dist.batch import Batch, History
from ppr_dist.config import Config
from ppr_dist.objectives import softmax
from ppr_dist.parallel import collectives
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.parallel.step_cost import Shape
from ppr_dist.trainer import train_step
from tests.flops import counter
from tests.multirank import models


class Measured(NamedTuple):
    """Of one rank."""

    received: dict[str, int]
    """Bytes by collective and kind of number."""
    flops: int
    told: int
    """Integers that objectives told the other rank."""
    shape: Shape
    padded_rows: int
    """Rows of all sequences padded to their buckets' widths: what a backbone may compute over."""


def histories_of(batch: Batch) -> list[History]:
    """Of the users and of all their views."""
    return [batch.history, *(view.history or batch.history for views in batch.views.values() for view in views)]


def shape_of(batch: Batch, prompt: int) -> Shape:
    histories = histories_of(batch)
    users = len(batch.users)
    return Shape(
        users=users,
        targets=len(batch.targets),
        max_users_per_rank=batch.max_users_per_rank,
        items=models.ITEMS,
        world_size=2,
        dim=16,
        travelling=4,
        rows=sum(len(history.items) + users * prompt for history in histories),
        squared=sum(b.sequences * (b.width + prompt) ** 2 for history in histories for b in history.buckets),
        looked_up=len(batch.item_ids),
        profile_values=len(batch.profile_values),
        views=len(histories),
    )


class Spy:
    """Counts the bytes that this rank receives from the other one, by collective and kind of number."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.received: Counter[str] = Counter()
        for module, name, kind in (
            (dist, "all_to_all_single", "all_to_all"),
            (collectives, "_all_to_all", "all_to_all"),
            (collectives, "_all_gather", "all_gather"),
            (dist, "all_reduce", "all_reduce"),
        ):
            patch.setattr(module, name, self._counting(getattr(module, name), kind))

    def _counting(self, function: Any, kind: str) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            names = ("output", "input", "output_split_sizes") if kind == "all_to_all" else ("tensor",)
            given = dict(zip(names, args, strict=False)) | kwargs
            out = given["output" if kind == "all_to_all" else "tensor"]
            share = 1 / 2
            splits = given.get("output_split_sizes")
            if splits:
                share = splits[1 - dist.get_rank()] / max(sum(splits), 1)
            times = 2 if kind == "all_reduce" else 1  # a ring reduces, then gathers
            number = "float" if out.is_floating_point() else "int"
            self.received[f"{kind} {number}"] += round(out.numel() * out.element_size() * share * times)
            return function(*args, **kwargs)

        return counted


def measured(context: DistributedContext, config: Config, method: str | None) -> Measured:
    """A step of a small model."""
    parallel, collator, objectives = models.build(context, config, method)
    mine = models.part(models.users(), context)
    for step in range(2):  # the first one plans, compiles and caches
        batch = collator(mine, epoch=0, step=step, global_users=models.USERS)
        with pytest.MonkeyPatch.context() as patch, counter() as flops:
            # As on a GPU: the formulas do not know how many of the candidates drawn are distinct.
            patch.setattr(softmax, "merged", lambda *candidates: candidates)
            spy = Spy(patch)
            train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)
    exchanged = [objective.to_exchange(batch) for objective in objectives.values()]
    told = sum(1 if integers is None else 1 + len(integers) for integers in exchanged)
    prompt = parallel.engine.module.prompt_rows
    padded = sum(b.sequences * (b.width + prompt) for history in histories_of(batch) for b in history.buckets)
    return Measured(dict(spy.received), flops.get_total_flops(), told, shape_of(batch, prompt), padded)
