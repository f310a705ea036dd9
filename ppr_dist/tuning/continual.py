"""Conure: many tasks in one backbone, none of which is forgotten (Yuan et al., "One Person, One Model, One World:
Learning Continual User Representation without Forgetting", SIGIR 2021, §3; masks as in PackNet, CVPR 2018).

Each element of a projection's weight W belongs to the task that kept it, or is free. Task t trains the free ones,
W = stopgrad(W ⊙ Σ_{i<t} M_i) + W ⊙ (1 − Σ_{i<t} M_i), keeps the largest of them (mask M_t) and trains these once more
with the other free ones at 0. Two runs for each task, of which the first one's first is its pre-training::

    pretrain → tune --continual.keep 0.3            the first task
             → tune → tune --continual.keep 0.3     the second
             → tune → tune --continual.keep 0.3     the third

``--init`` of each is the one before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.errors import UserError
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.base import TuningMethod, is_attached

_WEIGHT = ".parametrizations.weight.original"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Continual learning."""

    keep: float | None = None
    """Share of each layer's free weights that the task keeps, the largest: the others become 0, and those kept alone
    are trained. null: the free weights are trained, those that earlier tasks kept stand."""

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            raise UserError(f"continual.keep must be above 0 and at most 1, not {self.keep}")


class Continual(TuningMethod):
    """Weights of projections are trained where they are free; items, norms, biases, positions stand as pre-trained."""

    section = Settings
    trains_items = False
    starts_as_pretrained = True
    continues = ("continual",)

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.keep = config.part("continual", Settings).keep
        if config.train.weight_decay:
            raise UserError("train.weight_decay would move weights of earlier tasks: leave it at 0 with continual")

    def attach(self, model: SequentialModel) -> None:
        # While a task's weights are pruned, its profile encoder goes on; a new task has a new one.
        if self.keep is None or model.profile_encoder is None:
            super().attach(model)
        names = model.backbone.projections()
        if not names:
            raise UserError(f"backbone {self.config.model.backbone} has no linear layers: tune by another method")
        for name in names:
            layer = model.backbone.get_submodule(name)
            if not parametrize.is_parametrized(layer):
                parametrize.register_parametrization(layer, "weight", Owned(layer.get_parameter("weight")))
        weights = list(owned_weights(model))
        if self.keep is None or weights[0][0].is_meta:  # of which a plan sees shapes alone
            learning = 0
        else:
            learning = last_task(model) + 1
            for weight, owned in weights:
                prune(weight, owned.owner, self.keep, learning)
        for _, owned in weights:
            owned.learning = learning

    def trainable(self, name: str) -> bool:
        return is_attached(name) or name.endswith(_WEIGHT)


class Owned(nn.Module):
    """Which task each element of a weight belongs to, and which elements learn."""

    owner: Tensor
    """1 for the first task, …; 0: free. int8, of the weight's shape."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("owner", torch.zeros_like(weight, dtype=torch.int8))
        self.learning = 0
        """Whose elements have a gradient; 0: the free ones."""
        self.as_of: int | None = None
        """Use what belongs to tasks up to this one alone."""

    def forward(self, weight: Tensor) -> Tensor:
        if self.as_of is not None:
            return weight * ((self.owner > 0) & (self.owner <= self.as_of))
        return torch.where(self.owner == self.learning, weight, weight.detach())


@torch.no_grad()
def prune(weight: Tensor, owner: Tensor, keep: float, task: int) -> None:
    """Give ``task`` the largest share ``keep`` of the free elements, and set the rest of them to 0; in place.

    As ``torch.nn.utils.prune.l1_unstructured`` with an amount of 1 − ``keep``, of the free elements alone.
    """
    free = (owner.flatten() == 0).nonzero().squeeze(1)
    dropped = weight.flatten()[free].abs().topk(round((1 - keep) * len(free)), largest=False).indices
    owned = torch.full_like(free, task, dtype=owner.dtype)
    owned[dropped] = 0
    owner.view(-1)[free] = owned
    weight.mul_(owner > 0)


def owned_weights(model: nn.Module) -> Iterator[tuple[nn.Parameter, Owned]]:
    """The weights that tasks share, each with its owners."""
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], Owned):
            yield module.get_parameter("original"), module[0]


def last_task(model: nn.Module) -> int:
    """The number of tasks that have kept weights."""
    return max(int(owned.owner.max()) for _, owned in owned_weights(model))


def serve_from(model: SequentialModel, later: SequentialModel) -> None:
    """Have ``model``, as an earlier task left it, use the weights of a ``later`` one, of which it reads only its own.

    All tasks are then served from one set of weights, each with its own profile encoder and heads.
    """
    served = next(owned.as_of for _, owned in owned_weights(model))
    task = served or last_task(model)
    for name, module in later.named_modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], Owned):
            mine = model.get_submodule(name)
            assert isinstance(mine, parametrize.ParametrizationList)
            mine.register_parameter("original", module.get_parameter("original"))
            owned = mine[0]
            assert isinstance(owned, Owned)
            owned.owner, owned.as_of = module[0].owner, task
