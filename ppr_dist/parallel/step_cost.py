"""What a training step costs a rank, by part: bytes it receives from other ranks, and FLOPs. Formulas alone.

Shapes: W ranks; of one rank: B users, T rows that enter the backbone (prompts, all views), U distinct items,
P targets, C candidates that it lends; D item width. A product of
[n, k] and [k, m] is 2·n·k·m FLOPs, its backward twice that. Left out: everything element by element, the update of the
tables, and the few numbers by which ranks tell each other sizes.
"""

from __future__ import annotations

import dataclasses

import torch

from ppr_dist.config import Config
from ppr_dist.model.tower import DenseTower
from ppr_dist.parallel.look_up import samples_of
from ppr_dist.parallel.sparse import TableSizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One rank's batch."""

    users: int
    tokens: int
    """T: rows that enter the backbone, of all views."""
    squared: int
    """Σ length² over the sequences, of all views: what attention's products go over."""
    items: int
    """U."""
    profile_values: int
    """V: distinct values of all attributes."""
    targets: int
    """P."""
    candidates: int
    """C."""
    views: bool
    """Whether the contrastive loss is computed."""


def typical(config: Config, sizes: TableSizes, world_size: int, history: float) -> Shape:
    """The batch of a rank whose users have ``history`` clicks each, no item twice among them."""
    loss, users = config.loss, -(-config.train.batch // world_size)
    kept, tuning = min(history, config.model.max_length + 1), sizes.with_profile_encoder
    inputs = max(kept - 1, 0)
    targets = users * (kept if tuning else inputs)
    candidates = negatives = 0.0
    if loss.kind == "softmax":
        lenders = min(users, -(-loss.in_batch_users // world_size))
        uniform = -(-loss.uniform_negatives // world_size)
        candidates, negatives = lenders * loss.in_batch_per_user + uniform, uniform
    elif loss.kind == "full_softmax":
        candidates = negatives = -(-sizes.items // world_size)
    else:
        negatives = targets * loss.uniform_negatives
    views = sizes.with_prompt and loss.contrastive_weight > 0
    prompt = config.prompt.tokens if sizes.with_prompt else 0
    # Two views have all clicks, the third drops some.
    lengths = [inputs + prompt] * (2 if views else 1) + [inputs * (1 - loss.interaction_dropout) + prompt] * views
    return Shape(
        users=users,
        tokens=round(users * sum(lengths)),
        squared=round(users * sum(length**2 for length in lengths)),
        items=min(round(users * kept + negatives), sizes.items),
        profile_values=sum(min(users, values) for values in sizes.attributes.values()),
        targets=round(targets),
        candidates=round(candidates),
        views=views,
    )


def step_cost(
    config: Config, sizes: TableSizes, world_size: int, shape: Shape, device: str
) -> dict[str, dict[str, int]]:
    """Bytes a rank receives and FLOPs it computes in one step, by part; ``device`` is cpu or cuda.

    Items row-wise and balanced: of what is looked up, (W − 1)/W lies on other ranks. Vectors that are looked up or
    gathered travel forward and their gradients back, as ``tables.exchange`` says. Every parameter learns; ppr-light
    computes less.
    """
    bytes_, flops = _bytes(config, sizes, world_size, shape, device), _flops(config, sizes, world_size, shape)
    return {part: {"bytes": round(bytes_.get(part, 0)), "flops": round(flops.get(part, 0))} for part in PARTS}


PARTS = (
    "ids and lengths",
    "looked-up vectors",
    "candidate ids",
    "candidates",
    "loss",
    "contrastive",
    "backbone",
    "dense gradients",
)


def _bytes(config: Config, sizes: TableSizes, w: int, shape: Shape, device: str) -> dict[str, float]:
    other, dim = (w - 1) / w, config.model.dim
    tables = len(sizes.attributes) * len(sizes.uses)  # profile tables lie whole on a rank, so 1/W of them on each
    samples = samples_of(w) if device == "cuda" else 1
    lengths = 8 * (w - 1) * samples * (1 + tables / w)
    full, soft = config.loss.kind == "full_softmax", config.loss.kind == "softmax"
    # full_softmax: a rank's candidates are its own rows, and what it has besides lies elsewhere.
    items = shape.items - shape.candidates if full else other * shape.items
    values = other * len(sizes.uses) * shape.profile_values
    rounded = 2 if config.tables.exchange == "bfloat16" else 4
    lent = shape.candidates if soft else 0
    max_users_per_rank = -(-config.train.batch // w)
    to_all = w - 1  # what a rank sends to all, it gets from each
    return {
        "ids and lengths": 8 * (items + values) + lengths,
        "looked-up vectors": 2 * rounded * (dim * items + config.prompt.attribute_dim * values),
        "candidate ids": 8 * to_all * (2 + 2 * lent),
        "candidates": 2 * rounded * to_all * dim * lent,
        "loss": 4 * to_all * shape.targets * (2 * dim + 1 + w) if full else 0,
        "contrastive": 2 * 4 * to_all * 2 * max_users_per_rank * dim if shape.views else 0,
        "dense gradients": (3 if config.train.zero_stage == 3 else 2) * 4 * other * dense_parameters(config, sizes),
    }


def _flops(config: Config, sizes: TableSizes, w: int, shape: Shape) -> dict[str, float]:
    model, prompt, loss = config.model, config.prompt, config.loss
    dim, features, views = model.dim, len(sizes.attributes) * prompt.attribute_dim, 3 if shape.views else 1
    scored = {"softmax": w * shape.candidates, "full_softmax": sizes.items}.get(loss.kind, loss.uniform_negatives)
    products = 4 if loss.kind == "full_softmax" else 3  # there the logits are computed again for the gradients
    generator = sizes.with_prompt * views * prompt.hidden * (features + prompt.tokens * dim)
    tower = sizes.with_profile_encoder * prompt.hidden * (features + dim)
    linear = 2 * model.blocks * (4 + 2 * model.feed_forward) * dim**2 * shape.tokens
    attention = 4 * model.blocks * dim * shape.squared * 7 / 6  # backward computes the scores again
    return {
        "loss": 2 * products * dim * shape.targets * scored,
        "contrastive": 2 * 3 * dim * shape.users * 2 * -(-config.train.batch // w) * w if shape.views else 0,
        "backbone": 3 * (linear + attention + 2 * shape.users * (generator + tower)),
    }


def dense_parameters(config: Config, sizes: TableSizes) -> int:
    """Parameters of the dense tower."""
    with torch.device("meta"):
        tower = DenseTower(
            config.model,
            config.prompt,
            attributes=len(sizes.attributes),
            with_prompt=sizes.with_prompt,
            with_profile_encoder=sizes.with_profile_encoder,
        )
    return sum(parameter.numel() for parameter in tower.parameters())
