"""What an objective is: one term of the training loss.

Shapes as in :mod:`ppr_dist.batch`; D width, W ranks, E clicks of the step's users, targets included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.manifest import LabelSpace
from ppr_dist.data.stream.step_users import Drawn, StepUsers
from ppr_dist.model.encoded import Encoded
from ppr_dist.parallel.collectives import AsyncAllGather

NEGATIVE = 11
"""What a draw is for is the first word of its key: uniform negatives."""


@dataclasses.dataclass(frozen=True)
class Exchanged:
    """What every rank told every rank of its batch, before any vector was computed."""

    counts: Tensor
    """:meth:`Objective.count` of each rank, int64 [W]."""
    integers: Tensor
    """:meth:`Objective.to_exchange` of each rank, int64 [W, k]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What an objective's sum is computed from."""

    batch: Batch
    items: Tensor
    """Vectors of batch.item_ids as they are scored, [U, D]."""
    labels: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    """Vectors of batch.label_ids by space, [u, D]."""
    encoded: Encoded
    exchanged: Exchanged
    """Of this objective."""
    started: AsyncAllGather | None
    """What :meth:`Objective.start` returned."""

    def targets(self) -> tuple[Tensor, Tensor]:
        """Vectors [P, D] and ids int64 [P] of the targets."""
        rows = self.batch.targets
        return self.items.index_select(0, rows), self.batch.item_ids.index_select(0, rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepShape:
    """One rank's batch in numbers, as a plan expects it."""

    users: int
    targets: int
    max_users_per_rank: int
    items: int
    """Size of the catalogue."""
    world_size: int
    dim: int
    travelling: int
    """Bytes of a number that ``tables.exchange`` rounds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What an objective adds to a step of one rank; bytes are those received from other ranks."""

    items: float = 0
    """Items looked up besides clicks."""
    local_items: float = 0
    """Of these, those that lie on this rank by choice."""
    bytes: float = 0
    """Ids and vectors gathered, and the vectors' gradients."""
    flops: float = 0
    views: tuple[float, ...] = ()
    """Of each view, the share of the clicks that it has."""


class Objective:
    """One term of the loss: ``weight`` times the mean over what :meth:`count` counts on all ranks.

    Plain settings, so that loader processes can have a copy; parameters of its own are those of its :meth:`heads`.
    """

    name: ClassVar[str]
    """Its name, and that of its section of the configuration."""
    section: ClassVar[type | None] = None
    """A frozen dataclass: its section of the configuration, or None."""
    weight: float = 1.0
    task: ClassVar[str | None] = None
    """The task by which a run with this objective first is validated; None: the stage's own."""

    scores_items: ClassVar[bool] = True
    """Whether it is computed from scores of items for each target (``Encoded.user``)."""

    masks: bool = False
    """Whether its views show the model's mask in place of some items."""

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        """Raises :class:`~ppr_dist.errors.UserError` on settings that do not fit the data."""
        self.scores = config.loss

    @classmethod
    def hides(cls, config: Config, attributes: dict[str, int]) -> tuple[str, ...]:
        """Which of ``attributes`` prompt and profile encoder may not see, since this predicts them."""
        return ()

    @classmethod
    def label_spaces(cls, config: Config, there: tuple[LabelSpace, ...]) -> tuple[LabelSpace, ...]:
        """Which of the data's label spaces this predicts.

        Raises :class:`~ppr_dist.errors.UserError` where one is not there.
        """
        return ()

    def heads(self, dim: int) -> dict[str, nn.Module]:
        """Modules of its own for user vectors after the whole history, [B, dim] → [B, …]; they live in the engine."""
        return {}

    def draw(self, users: StepUsers) -> Drawn:
        """Draw, on the host, in a loader's process."""
        return Drawn()

    def count(self, batch: Batch) -> int | Tensor:
        """What this rank's sum goes over: by default its targets. Known to the host, or a scalar on the device."""
        return len(batch.targets)

    def to_exchange(self, batch: Batch) -> Tensor | None:
        """Integers that every rank is to know of this one, int64 [k]; the same k on every rank."""
        return None

    def start(self, batch: Batch, items: Tensor, labels: Mapping[str, Tensor]) -> AsyncAllGather | None:
        """Start to communicate vectors, which travel while the model computes: of ``items`` [U, D], and of ``labels``
        [u, D] by space. A collective.
        """
        return None

    def sum(self, step: Step) -> Tensor:
        """This rank's sum, a scalar."""
        raise NotImplementedError

    def cost(self, shape: StepShape) -> Cost:
        """What a step of this objective costs a rank (:mod:`ppr_dist.parallel.step_cost`)."""
        return Cost()
