"""CLUE (Cheng et al., "Learning Transferable User Representations with Sequential Behaviors via Contrastive
Pre-training", ICDM 2021): two views of one user agree, and no item is predicted.

Pre-training by ``train.objectives: [clue]`` alone; tune it afterwards. The paper keeps its Siamese encoders from
collapsing by BatchNorm in a projector; here InfoNCE does, over the views of the users of all ranks, gathered: a
substitute, whose negatives do not depend on how users are dealt to ranks.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.stream.step_users import Drawn, StepUsers
from ppr_dist.errors import UserError, require_positive
from ppr_dist.objectives import cl4srec
from ppr_dist.objectives.cl4srec import CL4SRec, Operation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(cl4srec.Settings):
    """CLUE's contrast of whole users; views are those of CL4SRec."""

    weight: float = 1.0
    """What the loss is multiplied by."""
    operations: list[Operation] = dataclasses.field(default_factory=lambda: ["crop", "mask", "reorder"])
    """What views are made by: two different ones for each user and epoch, or one for both where there is no other.
    None, []: by dropout alone, which must then be above 0."""
    similarity: Literal["dot", "cosine"] = "cosine"
    """Of two views."""
    temperature: float = 0.2
    """τ; similarities are divided by this."""

    def __post_init__(self) -> None:
        require_positive(self, "clue", "temperature", "weight")
        for name in ("crop", "mask", "reorder"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"clue.{name} must be above 0 and at most 1, not {getattr(self, name)}")
        if len(set(self.operations)) < len(self.operations):
            raise UserError("clue.operations: several of crop, mask, reorder, each once, or none")


class CLUE(CL4SRec):
    """InfoNCE of two views of each user's whole history."""

    name = "clue"
    section = Settings

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.masks = "mask" in self.settings.operations

    def draw(self, users: StepUsers) -> Drawn:
        if self.settings.operations:
            return super().draw(users)
        # Each view of a batch has dropout of its own (model/sequential.py).
        return Drawn(tensors={"users": np.flatnonzero(users.lengths)}, views=((None, 0.0), (None, 0.0)))
