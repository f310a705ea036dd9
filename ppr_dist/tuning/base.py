"""What a tuning method is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from torch import nn

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Tables
from ppr_dist.data.manifest import LabelSpace
from ppr_dist.model.sequential import SequentialModel

ATTACHED = ("prompt.", "profile_encoder.", "heads.", "user_model.")
"""How the names of parameters begin that a pre-trained model does not have."""


class TuningMethod:
    """What is attached to a pre-trained model, after it was loaded strictly, and what of it is trainable."""

    section: ClassVar[type | None] = None
    """A frozen dataclass: its section of the configuration, or None."""
    section_name: ClassVar[str | None] = None
    """None: its own name; several methods may share a section."""
    objectives: ClassVar[tuple[str, ...]] = ()
    """Objectives it adds to those of the configuration."""
    profile_uses: ClassVar[tuple[str, ...]] = ("profile_encoder",)
    """What profiles are embedded for; each use has tables of its own."""
    trains_items: ClassVar[bool] = True
    """Whether the item table is trainable where ``tables.train_items`` does not say."""

    continues: ClassVar[tuple[str, ...]] = ()
    """Methods whose runs it can start from, besides pre-trained ones."""

    starts_as_pretrained: ClassVar[bool] = False
    """Whether step 0 gives the pre-trained model's user vectors, bit for bit."""

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        """Raises :class:`~ppr_dist.errors.UserError` where the data has not what the method needs."""
        self.config, self.catalogue = config, catalogue
        self.features = len(catalogue.profile) * config.profiles.attribute_dim + catalogue.user_vectors
        """Width of x_u: a profile's embedding, m·d, and the user's vector; 0 where the data has neither."""

    @classmethod
    def items_are_trainable(cls, tables: Tables) -> bool:
        """Whether the item table is trainable."""
        return cls.trains_items if tables.train_items is None else tables.train_items

    @classmethod
    def reference_items(cls, config: Config, catalogue: Catalogue) -> tuple[int, ...]:
        """Items whose vectors the model is given in every step beside the batch's, behind them."""
        return ()

    @classmethod
    def reads_labels(cls, config: Config, catalogue: Catalogue) -> tuple[LabelSpace, ...]:
        """Label spaces that the model is given beside clicks and profiles (``Batch.labels``)."""
        return ()

    def attach(self, model: SequentialModel) -> None:
        """Add what the pre-trained model does not have: by default the profile encoder."""
        if self.features:
            model.attach_profile_encoder(self.features, self.config.profiles.hidden)

    def begins_as_item_means(self) -> tuple[str, ...]:
        """Uses of profiles whose tables begin as means of the vectors of the items that users with a value clicked."""
        return ()

    def trainable(self, name: str) -> bool:
        """Whether the parameter of that name is trained, once all is attached: by default every one."""
        return True


def is_attached(name: str) -> bool:
    """Whether a parameter of that name is new."""
    return name.startswith(ATTACHED)


def replace_modules(parent: nn.Module, names: Iterable[str], make: Callable[[nn.Module], nn.Module]) -> None:
    """Put ``make(module)`` in the place of each submodule of ``parent`` named (dotted)."""
    for name in names:
        owner, _, child = name.rpartition(".")
        holder = parent.get_submodule(owner)
        setattr(holder, child, make(holder.get_submodule(child)))
