"""Parts, objectives and collators in short."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Loss, Train
from ppr_dist.data.stream.collate import Collator
from ppr_dist.objectives.base import Objective
from ppr_dist.read_config import part_sections
from ppr_dist.step_loss import make_objectives
from tests.shards import ATTRIBUTES


def parts(**sections: dict[str, Any]) -> dict[str, Any]:
    """``Config.parts`` with these values beside the defaults: ``parts(bpr={"uniform_negatives": 3})``."""
    return {name: part_sections()[name](**values) for name, values in sections.items() if values}


def objectives(items: int, loss: Loss | None = None, **chosen: dict[str, Any]) -> dict[str, Objective]:
    """Objectives by name, as ``parts`` says: ``objectives(97, bpr={"uniform_negatives": 3}, full_softmax={})``."""
    config = Config(loss=loss or Loss(), train=Train(objectives=list(chosen)), parts=parts(**chosen))
    return make_objectives(config, None, Catalogue(items=items, attributes=ATTRIBUTES))


def collator(chosen: dict[str, Objective], items: int, *, probability: Any = None, **settings: Any) -> Collator:
    """A collator of one rank, histories of up to 50 clicks and equal shares, unless ``settings`` say otherwise."""
    given: dict[str, Any] = {
        "probability": np.full(items, 1 / items, np.float32) if probability is None else probability,
        "max_length": 50,
        "hold_out": 0,
        "first_target": 1,
        "seed": 5,
        "rank": 0,
        "world_size": 1,
    }
    return Collator(objectives=chosen, items=items, **given | settings)
