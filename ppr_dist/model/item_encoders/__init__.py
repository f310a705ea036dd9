"""Item encoders: one file each, found here by name."""

from ppr_dist.model.item_encoders.base import ItemEncoder
from ppr_dist.model.item_encoders.id import Id

ITEM_ENCODERS: dict[str, type[ItemEncoder]] = {
    "id": Id,
}
