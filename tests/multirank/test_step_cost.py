"""What ``plan`` says a step sends and computes, against what two ranks send and compute in one."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, sdpa_backward_flop, sdpa_flop

from ppr_dist.batch import Batch
from ppr_dist.config import Config
from ppr_dist.parallel import collectives
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.embeddings import TableSizes
from ppr_dist.parallel.step_cost import Shape, step_cost, typical
from ppr_dist.trainer import send, train_step
from tests.multirank import models
from tests.ranks import run_ranks

LOSSES = {kind: models.with_loss(kind) for kind in ("softmax", "full_softmax", "bce")}

SIZES = {
    tuning: TableSizes(
        items=models.ITEMS,
        dim=16,
        attributes=models.ATTRIBUTES,
        attribute_dim=16,
        with_prompt=tuning,
        with_profile_encoder=tuning,
    )
    for tuning in (False, True)
}


def shape_of(batch: Batch, prompt: int) -> Shape:
    views = batch.masked_history is not None
    groups = [*batch.groups, *batch.groups, *batch.masked_buckets] if views else batch.groups
    history = 2 * len(batch.history) + len(batch.masked_history) if views else len(batch.history)  # type: ignore[arg-type]
    users = len(batch.lengths)
    return Shape(
        users=users,
        tokens=history + users * prompt * (3 if views else 1),
        squared=sum(group.users * (group.width + prompt) ** 2 for group in groups),
        items=len(batch.item_ids),
        profile_values=len(batch.profile_values),
        targets=len(batch.targets),
        candidates=0 if batch.candidates is None else len(batch.candidates),
        views=views,
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


def formula(of: Any) -> Any:
    """One of torch's own formulas, for an operator that it has none for."""
    same: Any = functools.partial(of)
    same._get_raw = True  # it takes shapes out of tensors itself
    return same


def counted(context: DistributedContext, config: Config, tuning: bool) -> tuple[dict[str, int], int, Shape]:
    parallel, collator = models.build(context, config, tuning=tuning)
    mine = models.part(models.users(), context)
    aten: Any = torch.ops.aten
    # What torch's counter does not know: the product in place, and attention on a CPU.
    more = {
        aten.addmm_: formula(addmm_flop),
        aten._scaled_dot_product_flash_attention_for_cpu: formula(sdpa_flop),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: formula(sdpa_backward_flop),
    }
    for step in range(2):  # the first one plans, compiles and caches
        batch = collator(mine, epoch=0, step=step, global_users=models.USERS)
        with pytest.MonkeyPatch.context() as patch, FlopCounterMode(display=False, custom_mapping=more) as flops:
            spy = Spy(patch)
            sent = send(parallel, batch)
            train_step(parallel, batch, sent, config)
    return dict(spy.received), flops.get_total_flops(), shape_of(batch, config.prompt.tokens if tuning else 0)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("tuning", [False, True])
def test_a_step_sends_and_computes_what_the_formulas_say(kind: str, tuning: bool) -> None:
    config, sizes = models.small_config(LOSSES[kind]), SIZES[tuning]
    ranks = run_ranks(counted, 2, config, tuning)
    if kind == "full_softmax":  # its targets are padded to the longest rank's
        most = max(shape.targets for _, _, shape in ranks)
        ranks = [(received, flops, dataclasses.replace(shape, targets=most)) for received, flops, shape in ranks]
    cost = [step_cost(config, sizes, 2, shape, "cpu") for _, _, shape in ranks]

    def said(*parts: str) -> float:
        return sum(c[part]["bytes"] for c in cost for part in parts)

    got = Counter[str]()
    for received, _, _ in ranks:
        got.update(received)
    # Half of a rank's ids are its own on average alone.
    vectors = said("looked-up vectors", "candidates", "loss", "contrastive")
    assert got["all_to_all float"] + got["all_gather float"] == pytest.approx(vectors, rel=0.05)
    assert got["all_gather int"] == pytest.approx(said("candidate ids"), abs=2 * 8)
    assert got["all_reduce float"] == pytest.approx(said("dense gradients"), abs=2 * 64)
    # With ids go some numbers by which ranks tell each other sizes.
    assert said("ids and lengths") <= got["all_to_all int"] + 64 <= said("ids and lengths") + 2 * 128
    for (_, flops, _), of_rank in zip(ranks, cost, strict=True):
        # Products with a target's own negatives are done element by element, which is not counted.
        products = sum(part["flops"] for name, part in of_rank.items() if name != "loss" or kind != "bce")
        assert flops == pytest.approx(products, rel=0.02)


def test_what_grows_with_the_ranks_is_seen() -> None:
    # Twice the ranks and users: what is per user stays, what goes to all ranks doubles.
    config, sizes = models.small_config(LOSSES["softmax"]), dataclasses.replace(SIZES[True], items=10**6)
    found = []
    for ranks in (64, 128):
        grown = dataclasses.replace(config, train=dataclasses.replace(config.train, batch=32 * ranks))
        shape = typical(grown, sizes, ranks, 8)
        assert (shape.users, shape.targets, shape.items) == (32, 256, 32 * 8 + 1)
        found.append(step_cost(grown, sizes, ranks, shape, "cuda"))
    few, many = found
    ratio = {part: many[part]["bytes"] / max(few[part]["bytes"], 1) for part in few}
    assert ratio["ids and lengths"] == pytest.approx(1, rel=0.02)
    assert ratio["contrastive"] == pytest.approx(2, rel=0.02)
    assert ratio["looked-up vectors"] == pytest.approx(1, rel=0.02)
    assert ratio["dense gradients"] == pytest.approx(1, rel=0.02)
    assert many["backbone"]["flops"] == few["backbone"]["flops"]
