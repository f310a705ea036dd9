"""What a model can be asked about."""

from __future__ import annotations

import dataclasses

from ppr_dist.data.manifest import ItemData, LabelSpace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Sizes of the data a model is made for."""

    items: int
    attributes: dict[str, int]
    """Values of each profile attribute, the unknown one (0) included."""
    item_data: dict[str, ItemData] = dataclasses.field(default_factory=dict)
    """What is known of each item, by name."""
    hidden: frozenset[str] = frozenset()
    """Attributes that the model may not see, since it is to predict them."""
    labels: tuple[LabelSpace, ...] = ()
    """Label spaces that it is to predict."""
    known_labels: tuple[LabelSpace, ...] = ()
    """The others, which it may read."""

    user_vectors: int = 0
    """Numbers of each user's vector; 0: users have none."""

    @property
    def knows_users(self) -> bool:
        """Whether anything is known of users but their clicks."""
        return bool(self.profile or self.user_vectors)

    @property
    def profile(self) -> dict[str, int]:
        """The attributes that the model sees."""
        return {name: values for name, values in self.attributes.items() if name not in self.hidden}
