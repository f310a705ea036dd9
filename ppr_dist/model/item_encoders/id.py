"""An item's vector is its row of the table."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ppr_dist.model.item_encoders.base import ItemEncoder


class Id(ItemEncoder):
    reads_ids = True

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        return rows["id"]
