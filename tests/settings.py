"""Settings of parts in short."""

from __future__ import annotations

from typing import Any

from ppr_dist.read_config import part_sections


def parts(**sections: dict[str, Any]) -> dict[str, Any]:
    """``Config.parts`` with these values beside the defaults: ``parts(bpr={"uniform_negatives": 3})``."""
    return {name: part_sections()[name](**values) for name, values in sections.items()}
