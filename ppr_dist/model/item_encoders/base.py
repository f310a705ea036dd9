"""What an item encoder is: what is looked up of an item → its vector.

Shapes: U distinct items of a step, D width of item vectors, F numbers known of an item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ppr_dist.data.manifest import ItemData

INIT_STD = 0.02
"""Standard deviation that vectors begin with, about: that of rows of the item table (``tables.init_std``)."""


class ItemEncoder(nn.Module):
    """Vectors of items. It lives in the engine, runs once per distinct item of a step, and of the catalogue to score.

    An item has a vector whatever is known of it: 0 where nothing is.
    """

    section: ClassVar[type | None] = None
    """Its settings, a frozen dataclass; None: it has none."""
    reads_ids: ClassVar[bool] = False
    """Whether it reads trained rows of the item's own (``rows["id"]``)."""

    @classmethod
    def reads(cls, settings: Any, known: Mapping[str, ItemData]) -> tuple[str, ...]:
        """Which of what is known of items it reads.

        Raises :class:`~ppr_dist.errors.UserError` where the data does not have it.
        """
        return ()

    def __init__(self, settings: Any, dim: int, known: Mapping[str, ItemData]) -> None:
        """``known``: what :meth:`reads` names; ``dim``: D."""
        super().__init__()

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Rows by name, [U, D] of ``id`` and [U, F] of what it reads, float32 → item vectors [U, D]."""
        raise NotImplementedError

    def flops(self) -> float:
        """FLOPs of a forward pass for one item."""
        return 0.0

    def step_flops(self) -> float:
        """The same of a forward and a backward pass."""
        return 3 * self.flops()


def small_(linear: nn.Linear) -> nn.Linear:
    """Let a layer's outputs begin as small as rows of the item table, for inputs of variance 1."""
    nn.init.normal_(linear.weight, std=INIT_STD / linear.in_features**0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


def known_rows(x: Tensor) -> Tensor:
    """1 for rows that say something and 0 for those that are 0 throughout, [U, F] → [U, 1]."""
    return (x != 0).any(dim=1, keepdim=True).to(x.dtype)
