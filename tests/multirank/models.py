"""A small model on however many ranks, and what one or two of its steps do to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppr_dist.config import Config, Loss, Model, Prompt, Tables, Train
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.users import Users
from ppr_dist.model.tower import DenseTower
from ppr_dist.objective import gather_candidates, step_loss
from ppr_dist.parallel.apply import Parallel, parallelize
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.sparse import TableSizes, profile_table
from ppr_dist.trainer import send

ITEMS, ATTRIBUTES, USERS = 97, {"age": 5, "city": 11}, 23


def users() -> Users:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 12, USERS)
    return Users(
        index=rng.permutation(USERS).astype(np.int64),
        items=rng.integers(0, ITEMS, lengths.sum()),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        attributes=np.stack([rng.integers(0, n, USERS) for n in ATTRIBUTES.values()]),
    )


def part(all_users: Users, context: DistributedContext) -> Users:
    """This rank's slice of the global batch."""
    low, high = context.rank * USERS // context.world_size, (context.rank + 1) * USERS // context.world_size
    offsets = all_users.offsets[low : high + 1]
    return Users(
        index=all_users.index[low:high],
        items=all_users.items[offsets[0] : offsets[-1]],
        offsets=offsets - offsets[0],
        attributes=all_users.attributes[:, low:high],
    )


def small_config(
    loss: Loss, *, optimizer: str = "rowwise_adagrad", zero_stage: int = 0, sharding: Path | None = None
) -> Config:
    return Config(
        model=Model(dim=16, blocks=1, heads=2, max_length=10, dropout=0.0),
        prompt=Prompt(hidden=8, attribute_dim=16),
        tables=Tables(optimizer=optimizer, lr=0.1, init_std=0.3, sharding=sharding),  # type: ignore[arg-type]
        loss=loss,
        train=Train(batch=USERS, lr=1e-2, clip=0.5, zero_stage=zero_stage),  # type: ignore[arg-type]
    )


def build(
    context: DistributedContext, config: Config, *, tuning: bool, train_items: bool = True
) -> tuple[Parallel, Collator]:
    torch.manual_seed(0)
    sizes = TableSizes(
        items=ITEMS,
        dim=config.model.dim,
        attributes=ATTRIBUTES,
        attribute_dim=config.prompt.attribute_dim,
        with_prompt=tuning,
        with_profile_encoder=tuning,
    )
    tower = DenseTower(
        config.model, config.prompt, attributes=len(ATTRIBUTES), with_prompt=tuning, with_profile_encoder=tuning
    )
    parallel = parallelize(sizes, tower, config, context, train_items=train_items)
    return parallel, make_collator(context, config, tuning=tuning)


def make_collator(context: DistributedContext, config: Config, *, tuning: bool) -> Collator:
    return Collator(
        loss=config.loss,
        items=ITEMS,
        probability=np.full(ITEMS, 1 / ITEMS, np.float32),
        max_length=config.model.max_length,
        hold_out=0,
        first_target=0 if tuning else 1,
        views=tuning,
        seed=5,
        rank=context.rank,
        world_size=context.world_size,
    )


def whole_tables(parallel: Parallel) -> dict[str, np.ndarray]:
    """Every table, looked up in full."""
    with torch.no_grad():
        device = parallel.tables.device
        every_item = parallel.tables.model.module.items(_every("item", ITEMS, device))
        found = {"item": every_item["item"].values().cpu().numpy()}
        if parallel.tables.model.module.profiles is not None:
            for use in ("prompt", "tower"):
                for name, rows in ATTRIBUTES.items():
                    key = profile_table(use, name)
                    keys = [profile_table(u, a) for u in ("prompt", "tower") for a in ATTRIBUTES]
                    features = _every(key, rows, device, keys)
                    found[key] = parallel.tables.model.module.profiles(features)[key].values().cpu().numpy()
    return found


def _every(key: str, rows: int, device: torch.device, keys: list[str] | None = None) -> Any:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    keys = keys or [key]
    lengths = torch.tensor([rows if k == key else 0 for k in keys], device=device)
    return KeyedJaggedTensor(keys=keys, values=torch.arange(rows, device=device), lengths=lengths)


def fill(parallel: Parallel) -> None:
    """Give the tables (in one piece each) values that do not depend on the device, as their own draws do."""
    for number, (_, weight, _, _) in enumerate(parallel.tables.local_shards()):
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 0.3)


def steps(
    context: DistributedContext,
    config: Config,
    tuning: bool,
    count: int = 2,
    train_items: bool = True,
    same_on_any_device: bool = False,
) -> dict[str, Any]:
    """Run ``count`` steps; return losses, dense gradients (ZeRO 0) and everything that moved."""
    parallel, collator = build(context, config, tuning=tuning, train_items=train_items)
    if same_on_any_device:
        fill(parallel)
    mine = part(users(), context)
    losses, gradients = [], {}
    for step in range(count):
        batch = collator(mine, epoch=0, step=step, global_users=USERS).to(context.device)
        sent = send(parallel, batch)
        items, *profiles = parallel.tables.look_up(sent.ids)
        candidates = gather_candidates(config.loss, batch, items, config.tables.exchange)
        user, views = parallel.engine(items, batch, *profiles, 0.0)
        loss = step_loss(config.loss, batch, sent.shared, items, candidates, user, views)
        parallel.engine.backward(loss.backward)
        if config.train.zero_stage == 0 and step == 0:
            named = parallel.engine.module.named_parameters()
            gradients = {n: p.grad.cpu().numpy().copy() for n, p in named if p.grad is not None}
        parallel.engine.step()
        losses.append((float(loss.prediction), float(loss.contrastive)))
    dense = {n: p.detach().cpu().numpy().copy() for n, p in parallel.engine.module.named_parameters()}
    return {"losses": losses, "gradients": gradients, "tables": whole_tables(parallel), "dense": dense}


def with_loss(kind: str, **changes: Any) -> Loss:
    base = Loss(kind=kind, uniform_negatives=31 if kind == "softmax" else 3, in_batch_per_user=2, profile_dropout=0.0)  # type: ignore[arg-type]
    return dataclasses.replace(base, **changes)
