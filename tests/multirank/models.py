"""A small model on however many ranks, and what one or two of its steps do to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ppr_dist.build_model import attach, cloze_of, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model, Profiles, Tables, Train
from ppr_dist.data.manifest import ItemData, LabelSpace
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.users import Users
from ppr_dist.objectives.base import Objective
from ppr_dist.parallel.apply import Parallel, parallelize
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.parallel.tables import label_table, profile_table
from ppr_dist.read_config import part_sections
from ppr_dist.runs import RunInfo, table_sizes
from ppr_dist.step_loss import make_objectives, start, step_loss
from ppr_dist.tuning import TUNING_METHODS
from tests.shards import random_labels

ITEMS, ATTRIBUTES, USERS = 97, {"age": 5, "city": 11}, 23
ITEM_DATA = {
    "text": ItemData(kind="features", columns=10, known=ITEMS - 10, sha256=""),
    "image": ItemData(kind="features", columns=6, known=ITEMS - 10, sha256=""),
    "codes": ItemData(kind="codes", columns=3, known=ITEMS - 10, sha256="", values=7),
    "tokens": ItemData(kind="tokens", columns=10, known=ITEMS - 10, sha256="", values=2100),
}
LABELS = (
    LabelSpace(name="answer", id_type="string", size=3, values="", users=0, most=1),
    LabelSpace(name="orders", id_type="int64", size=130, values="", users=0, most=4),
)
CATALOGUE = Catalogue(items=ITEMS, attributes=ATTRIBUTES, item_data=ITEM_DATA)


def item_data() -> dict[str, npt.NDArray[np.float16]]:
    """What is known of each item; of some items nothing, of some all but one."""
    rng = np.random.default_rng(9)
    found = {}
    for number, (name, data) in enumerate(ITEM_DATA.items()):
        shape = ITEMS, data.columns
        found[name] = (rng.integers(0, 2, shape) if data.values else rng.normal(size=shape)).astype(np.float16)
        if data.kind == "codes":
            found[name] = rng.integers(1, data.values + 1, shape).astype(np.float16)
        elif data.kind == "tokens":
            found[name][:, data.columns // 2 :] = rng.integers(0, 50, (ITEMS, data.columns // 2))
        found[name][5 * number : 5 * number + 10] = 0
    return found


def users() -> Users:
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 12, USERS)
    return Users(
        index=rng.permutation(USERS).astype(np.int64),
        items=rng.integers(0, ITEMS, lengths.sum()),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        attributes=np.stack([rng.integers(0, n, USERS) for n in ATTRIBUTES.values()]),
        labels=random_labels(USERS, LABELS),
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
        times=None if all_users.times is None else all_users.times[offsets[0] : offsets[-1]],
        labels={name: labels.take(np.arange(low, high)) for name, labels in all_users.labels.items()},
    )


def small_config(
    objective: str = "softmax",
    *,
    backbone: str = "sasrec",
    optimizer: str = "rowwise_adagrad",
    zero_stage: int = 0,
    cluster: Path | None = None,
    **sections: dict[str, Any],
) -> Config:
    """A small model of any registered backbone and objective; ``sections``: settings of parts beside their defaults."""
    settings: dict[str, dict[str, Any]] = {
        "sasrec": {"layers": 1},
        "prompt": {"hidden": 8},
        "contrastive": {"profile_dropout": 0.0},
        "softmax": {"uniform_negatives": 31, "in_batch_per_user": 2},
        **{name: {"uniform_negatives": 3} for name in ("bpr", "bce")},
    }
    for name, values in sections.items():
        settings[name] = settings.get(name, {}) | values
    return Config(
        model=Model(backbone=backbone, dim=16, max_length=10, dropout=0.0),
        profiles=Profiles(hidden=8, attribute_dim=16),
        tables=Tables(optimizer=optimizer, lr=0.1, init_std=0.3, cluster=cluster),  # type: ignore[arg-type]
        train=Train(
            objectives=[objective],
            global_batch_size=USERS,
            lr=1e-2,
            max_grad_norm=0.5,
            zero_stage=zero_stage,  # type: ignore[arg-type]
        ),
        parts={name: part_sections()[name](**values) for name, values in settings.items()},
    )


class Built(NamedTuple):
    parallel: Parallel
    collator: Collator
    objectives: dict[str, Objective]


def build(context: DistributedContext, config: Config, method: str | None = None, stir: float = 0.0) -> Built:
    """The model of ``config`` as it is pre-trained, or as ``method`` tunes it, on these ranks.

    ``stir``: standard deviation of what is added to every dense parameter, so that what begins at 0 shows.
    """
    catalogue = catalogue_for(config)
    torch.manual_seed(0)
    model = untuned_model(config, catalogue)
    pretrained = attach(model, method, config, catalogue)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * stir)
    train_items = TUNING_METHODS[method].items_are_trainable(config.tables) if method else True
    sizes = table_sizes(config, catalogue, method)
    parallel = parallelize(sizes, model, config, context, train_items=train_items, pretrained=pretrained)
    parallel.embeddings.fill_item_data(item_data())
    objectives = make_objectives(config, method, catalogue)
    return Built(parallel, make_collator(context, config, objectives, first_target=0 if method else 1), objectives)


def catalogue_for(config: Config) -> Catalogue:
    """The sizes of these users' data, and what of it a model of ``config`` may not see."""
    data = {"data": "", "fingerprint": "", "catalogue": {}, "items": ITEMS, "attributes": ATTRIBUTES}
    data |= {"item_data": ITEM_DATA, "labels": LABELS}
    return RunInfo(stage="pretrain", method=None, **data).catalogue_for(config)  # type: ignore[arg-type]


def make_collator(
    context: DistributedContext, config: Config, objectives: dict[str, Objective], first_target: int
) -> Collator:
    return Collator(
        objectives=objectives,
        items=ITEMS,
        probability=np.full(ITEMS, 1 / ITEMS, np.float32),
        max_length=config.model.max_length,
        hold_out=0,
        first_target=first_target,
        seed=5,
        rank=context.rank,
        world_size=context.world_size,
        cloze=cloze_of(config),
    )


def whole_tables(parallel: Parallel) -> dict[str, np.ndarray]:
    """Every table, looked up in full."""
    with torch.no_grad():
        device = parallel.embeddings.device
        found = {}
        if parallel.embeddings.model.module.items is not None:
            every_item = parallel.embeddings.model.module.items(_every("item", ITEMS, device))
            found["item"] = every_item["item"].values().cpu().numpy()
        spaces = parallel.embeddings.sizes.labels
        for name, rows in spaces.items():
            features = _every(label_table(name), rows, device, [label_table(each) for each in spaces])
            key = label_table(name)
            found[key] = parallel.embeddings.model.module.labels(features)[key].values().cpu().numpy()
        if parallel.embeddings.model.module.profiles is not None:
            uses, attributes = parallel.embeddings.sizes.uses, parallel.embeddings.sizes.attributes
            for use in uses:
                for name, rows in attributes.items():
                    key = profile_table(use, name)
                    keys = [profile_table(u, a) for u in uses for a in attributes]
                    features = _every(key, rows, device, keys)
                    found[key] = parallel.embeddings.model.module.profiles(features)[key].values().cpu().numpy()
    return found


def _every(key: str, rows: int, device: torch.device, keys: list[str] | None = None) -> Any:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    keys = keys or [key]
    lengths = torch.tensor([rows if k == key else 0 for k in keys], device=device)
    return KeyedJaggedTensor(keys=keys, values=torch.arange(rows, device=device), lengths=lengths)


def fill(parallel: Parallel) -> None:
    """Give the tables (in one piece each) values that do not depend on the device, as their own draws do."""
    for number, (_, weight, _, _) in enumerate(parallel.embeddings.local_shards()):
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 0.3)


def steps(
    context: DistributedContext,
    config: Config,
    method: str | None = None,
    count: int = 2,
    same_on_any_device: bool = False,
) -> dict[str, Any]:
    """Run ``count`` steps; return losses, dense gradients (ZeRO 0) and everything that moved."""
    parallel, collator, objectives = build(context, config, method)
    if same_on_any_device:
        fill(parallel)
    mine = part(users(), context)
    losses, gradients = [], {}
    for step in range(count):
        batch = collator(mine, epoch=0, step=step, global_users=USERS).to(context.device)
        fetched = fetch(batch, parallel.embeddings, objectives)
        items, profiles, labels = parallel.look_up(fetched.look_up)
        started = start(objectives, batch, items.scored, labels)
        encoded = parallel.engine(items.inputs, batch, profiles)
        loss = step_loss(objectives, fetched, items.scored, labels, encoded, started)
        parallel.engine.backward(loss.backward)
        if config.train.zero_stage == 0 and step == 0:
            named = parallel.engine.module.named_parameters()
            gradients = {n: p.grad.cpu().numpy().copy() for n, p in named if p.grad is not None}
        parallel.engine.step()
        losses.append([float(part) for part in loss.parts.values()])
    dense = {n: p.detach().cpu().numpy().copy() for n, p in parallel.engine.module.named_parameters()}
    return {"losses": losses, "gradients": gradients, "tables": whole_tables(parallel), "dense": dense}
