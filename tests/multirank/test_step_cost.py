"""What ``plan`` says a step sends and computes, against what two ranks send and compute in one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch.distributed as dist

from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.parallel import collectives
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.parallel.step_cost import Shape, step_cost, typical
from ppr_dist.trainer import train_step
from tests.flops import counter
from tests.multirank import models
from tests.ranks import run_ranks


def shape_of(batch: Batch, prompt: int) -> Shape:
    histories = [batch.history, *(view.history or batch.history for views in batch.views.values() for view in views)]
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


def counted(context: DistributedContext, config: Config, method: str | None) -> tuple[dict[str, int], int, int, Shape]:
    """Bytes received by kind, FLOPs, integers that this rank told the others, and the shape of one step."""
    parallel, collator, objectives = models.build(context, config, method)
    mine = models.part(models.users(), context)
    for step in range(2):  # the first one plans, compiles and caches
        batch = collator(mine, epoch=0, step=step, global_users=models.USERS)
        with pytest.MonkeyPatch.context() as patch, counter() as flops:
            spy = Spy(patch)
            train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)
    exchanged = [objective.to_exchange(batch) for objective in objectives.values()]
    told = sum(1 if integers is None else 1 + len(integers) for integers in exchanged)
    shape = shape_of(batch, parallel.engine.module.prompt_rows)
    return dict(spy.received), flops.get_total_flops(), told, shape


@pytest.mark.parametrize("objective", ["softmax", "full_softmax", "bce"])
@pytest.mark.parametrize("method", [None, "ppr-full"])
def test_a_step_sends_and_computes_what_the_formulas_say(objective: str, method: str | None) -> None:
    config = models.small_config(objective)
    ranks = run_ranks(counted, 2, config, method)
    shapes = [shape for *_, shape in ranks]
    if objective == "full_softmax":  # its targets are padded to the longest rank's
        most = max(shape.targets for shape in shapes)
        shapes = [dataclasses.replace(shape, targets=most) for shape in shapes]
    cost = [step_cost(config, models.CATALOGUE, method, shape, "cpu") for shape in shapes]
    used = [objective] if method is None else [objective, "contrastive"]
    assert list(cost[0]) == ["ids and lengths", "looked-up vectors", *used, "backbone", "dense gradients"]

    def said(*parts: str) -> float:
        return sum(c[part]["bytes"] for c in cost for part in parts)

    got = Counter[str]()
    for received, *_ in ranks:
        got.update(received)
    # Beside what objectives tell each other, full_softmax asks for the most targets of a rank.
    told = 8 * sum(integers for *_, integers, _ in ranks)
    assert got["all_gather int"] == pytest.approx(told, abs=2 * 8)
    # Half of a rank's ids are its own on average alone.
    vectors = said("looked-up vectors", *used) - told
    assert got["all_to_all float"] + got["all_gather float"] == pytest.approx(vectors, rel=0.05)
    assert got["all_reduce float"] == pytest.approx(said("dense gradients"), abs=2 * 64)
    # With ids go some numbers by which ranks tell each other sizes.
    assert said("ids and lengths") <= got["all_to_all int"] + 64 <= said("ids and lengths") + 2 * 128
    for (_, flops, *_), of_rank in zip(ranks, cost, strict=True):
        # Products with a target's own negatives are done element by element, which is not counted.
        products = sum(part["flops"] for name, part in of_rank.items() if name != "bce")
        assert flops == pytest.approx(products, rel=0.02)


def test_what_grows_with_the_ranks_is_seen() -> None:
    # Twice the ranks and users: what is per user stays, what goes to all ranks doubles.
    config, catalogue = models.small_config("softmax"), Catalogue(items=10**6, attributes=models.ATTRIBUTES)
    found = []
    for ranks in (64, 128):
        grown = dataclasses.replace(config, train=dataclasses.replace(config.train, global_batch_size=32 * ranks))
        shape = typical(grown, catalogue, "ppr-full", ranks, 8)
        assert (shape.users, shape.targets, shape.looked_up) == (32, 256, 32 * 8 + 1)
        assert (shape.views, shape.rows) == (3, round(32 * (7 + 7 + 0.8 * 7 + 3)))
        found.append(step_cost(grown, catalogue, "ppr-full", shape, "cuda"))
    few, many = found
    ratio = {part: many[part]["bytes"] / max(few[part]["bytes"], 1) for part in few}
    assert ratio["ids and lengths"] == pytest.approx(1, rel=0.02)
    assert ratio["contrastive"] == pytest.approx(2, rel=0.02)
    assert ratio["looked-up vectors"] == pytest.approx(1, rel=0.02)
    assert ratio["dense gradients"] == pytest.approx(1, rel=0.02)
    assert many["backbone"]["flops"] == few["backbone"]["flops"]
