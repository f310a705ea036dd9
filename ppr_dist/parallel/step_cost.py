"""What a training step costs a rank, by part: bytes it receives from other ranks, and FLOPs. Formulas alone.

Shapes: W ranks; of one rank: B users, R rows that enter the backbone (prompts, all views), U distinct items,
P targets; D item width. A product of [n, k] and [k, m] is 2·n·k·m FLOPs, its backward twice that. Left out: everything
element by element, the update of the tables, and the few numbers by which ranks tell each other sizes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.objectives.base import StepShape
from ppr_dist.parallel.input_distribution import samples_of
from ppr_dist.parallel.tables import item_data_columns
from ppr_dist.runs import table_sizes
from ppr_dist.step_loss import make_objectives


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape(StepShape):
    """One rank's batch, and what enters the backbone."""

    rows: int
    """R."""
    squared: int
    """Σ length² over the sequences of all views: what attention's products go over."""
    looked_up: int
    """U."""
    profile_values: int
    """V: distinct values of all attributes."""
    views: int
    """The histories included."""


def typical(config: Config, catalogue: Catalogue, method: str | None, world_size: int, history: float) -> Shape:
    """The batch of a rank whose users have ``history`` clicks each, no item twice among them."""
    users = -(-config.train.global_batch_size // world_size)
    kept = min(history, config.model.max_length + 1)
    inputs = max(kept - 1, 0)
    step = StepShape(
        users=users,
        targets=round(users * (kept if method and catalogue.knows_users else inputs)),
        max_users_per_rank=users,
        items=catalogue.items,
        world_size=world_size,
        dim=config.model.dim,
        travelling=2 if config.tables.exchange == "bfloat16" else 4,
    )
    costs = [objective.cost(step) for objective in make_objectives(config, method, catalogue).values()]
    prompt = _on_meta(config, catalogue, method).prompt_rows
    lengths = [inputs * share + prompt for share in (1.0, *(share for cost in costs for share in cost.views))]
    return Shape(
        **vars(step),
        rows=round(users * sum(lengths)),
        squared=round(users * sum(length**2 for length in lengths)),
        looked_up=min(round(users * kept + sum(cost.items for cost in costs)), catalogue.items),
        profile_values=sum(min(users, values) for values in catalogue.profile.values()),
        views=len(lengths),
    )


def step_cost(
    config: Config, catalogue: Catalogue, method: str | None, shape: Shape, device: str
) -> dict[str, dict[str, int]]:
    """Bytes a rank receives and FLOPs it computes in one step, by part; ``device`` is cpu or cuda.

    Items row-wise and balanced: of what is looked up, (W − 1)/W lies on other ranks. Vectors that are looked up or
    gathered travel forward and their gradients back, as ``tables.exchange`` says. As if every parameter were trainable;
    ppr-light computes less.
    """
    model, w = _on_meta(config, catalogue, method), shape.world_size
    sizes, other = table_sizes(config, catalogue, method), (w - 1) / w
    costs = {name: each.cost(shape) for name, each in make_objectives(config, method, catalogue).items()}
    tables = len(sizes.attributes) * len(sizes.uses)  # profile tables lie whole on a rank, so 1/W of them on each
    samples = samples_of(w) if device == "cuda" else 1
    # What of the items lies on this rank by choice does not travel, and what it has besides lies elsewhere.
    own = sum(cost.local_items for cost in costs.values())
    looked_up = shape.looked_up + len(sizes.reference_items)
    items = looked_up - own if own else other * looked_up
    values = other * len(sizes.uses) * shape.profile_values
    item_tables = sizes.ids + bool(sizes.item_data)
    # Trained rows travel back as gradients; what is known of items is frozen, and in half precision.
    row_bytes = 2 * shape.travelling * shape.dim * sizes.ids + 2 * item_data_columns(sizes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    attached = _attached_flops(model, _adapters(config, catalogue, model), shape)
    parts: dict[str, tuple[float, float]] = {
        "ids and lengths": (8 * (item_tables * items + values) + 8 * (w - 1) * samples * (item_tables + tables / w), 0),
        "looked-up vectors": (row_bytes * items + 2 * shape.travelling * sizes.attribute_dim * values, 0),
        "item encoders": (0, model.item_encoder.step_flops() * shape.looked_up),
        **{name: (8 * (w - 1) + cost.bytes, cost.flops) for name, cost in costs.items()},
        "backbone": (0, model.backbone.step_flops(shape.rows, shape.squared) + attached),
        "dense gradients": ((3 if config.train.zero_stage == 3 else 2) * 4 * other * parameters, 0),
    }
    return {part: {"bytes": round(received), "flops": round(flops)} for part, (received, flops) in parts.items()}


class StepFlops:
    """The FLOPs that a rank's step needs, for MFU; what does not depend on its batch is computed once.

    As PaLM counts them (appendix B), but for causal attention, of which the half that is masked is not needed; nor is
    what is computed a second time for the gradients. :func:`step_cost` counts both.
    """

    def __init__(self, config: Config, catalogue: Catalogue, method: str | None) -> None:
        self.model = _on_meta(config, catalogue, method)
        self.adapters = _adapters(config, catalogue, self.model)
        self.objectives = make_objectives(config, method, catalogue)
        self.items, self.dim = catalogue.items, config.model.dim

    def __call__(self, *, world_size: int, users: float, targets: float, clicks: float, squared: float) -> float:
        """Means of a rank: ``clicks`` of all histories, ``squared`` the sum of their squared lengths."""
        step = StepShape(
            users=round(users),
            targets=round(targets),
            max_users_per_rank=round(users),
            items=self.items,
            world_size=world_size,
            dim=self.dim,
            travelling=4,
        )
        costs = [objective.cost(step) for objective in self.objectives.values()]
        views = (1.0, *(share for cost in costs for share in cost.views))
        prompt, backbone = self.model.prompt_rows, self.model.backbone
        shape = Shape(
            **vars(step),
            rows=round(sum(clicks * share + users * prompt for share in views)),
            squared=round(sum(squared * s**2 + 2 * s * prompt * clicks + users * prompt**2 for s in views)),
            looked_up=0,
            profile_values=0,
            views=len(views),
        )
        attended = shape.squared // 2 if backbone.causal else shape.squared
        flops = sum(cost.flops for cost in costs) + 3 * backbone.flops(shape.rows, attended)
        return flops + _attached_flops(self.model, self.adapters, shape)


def _attached_flops(model: SequentialModel, adapters: int, shape: Shape) -> float:
    """Forward and backward, of adapters, prompt and profile encoder, and of a user model of its own."""
    mlps = sum(_weights(module) * times for module, times in ((model.prompt, shape.views), (model.profile_encoder, 1)))
    user_model = 0.0 if model.user_model is None else model.user_model.flops(shape.targets)
    return 3 * 2 * (shape.rows * adapters + shape.users * mlps) + user_model


def _adapters(config: Config, catalogue: Catalogue, model: SequentialModel) -> int:
    """Weights that tuning put into the backbone of ``model``."""
    return _weights(model.backbone) - _weights(_on_meta(config, catalogue, None).backbone)


def _on_meta(config: Config, catalogue: Catalogue, method: str | None) -> SequentialModel:
    with torch.device("meta"):
        model = untuned_model(config, catalogue)
        attach(model, method, config, catalogue)
    return model


def _weights(module: Any) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters() if p.dim() > 1)
