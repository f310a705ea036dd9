"""What a model can be asked about."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Sizes of the data a model is made for."""

    items: int
    attributes: dict[str, int]
    """Values of each profile attribute, the unknown one (0) included."""
