"""Item encoders: one file each, found here by name."""

from ppr_dist.model.item_encoders.base import ItemEncoder
from ppr_dist.model.item_encoders.codes import Codes
from ppr_dist.model.item_encoders.features import Features
from ppr_dist.model.item_encoders.id import Id
from ppr_dist.model.item_encoders.tokens import Tokens

ITEM_ENCODERS: dict[str, type[ItemEncoder]] = {
    "id": Id,
    "features": Features,
    "codes": Codes,
    "tokens": Tokens,
}
