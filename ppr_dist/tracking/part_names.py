"""The parts of a training step by name."""

from __future__ import annotations

import re

DATA, IDS, LOOK_UP = "data", "id exchange", "look-up"
FORWARD, GATHER, LOSS, BACKWARD = "dense forward", "candidate gather", "loss", "dense backward"
TABLES, ALL_REDUCE, UPDATE = "table update", "dense all-reduce", "dense update"
PARTS = (DATA, IDS, LOOK_UP, FORWARD, GATHER, LOSS, BACKWARD, TABLES, ALL_REDUCE, UPDATE)
"""In the order of a step. At ZeRO 1 to 3 gradients are reduced inside "dense backward" and "dense update"."""
REST = "rest"
"""What none of them covers."""


def key(part: str) -> str:
    """What a part is called in a record, which has it in milliseconds."""
    return "part_ms/" + re.sub(r"\W", "_", part)
