"""What a backbone is."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ppr_dist.data.stream.cloze import Cloze
from ppr_dist.model.packed_sequences import PackedSequences


class Backbone(nn.Module):
    """Item vectors of histories → a state after each click. Shapes as in :mod:`ppr_dist.model.packed_sequences`.

    A subclass has ``__init__(settings, dim, max_length, dropout)``, ``settings`` being an instance of its ``section``,
    and raises :class:`~ppr_dist.errors.UserError` on settings that do not fit together.
    """

    section: ClassVar[type | None] = None
    """A frozen dataclass: its section of the configuration, which has its name; None: it has no settings."""
    reads_times: ClassVar[bool] = False
    """Whether it makes anything of times; otherwise ``model.target_time`` is refused."""
    causal: ClassVar[bool] = True
    """Whether a state depends on what stands before it alone. Otherwise it is trained and asked by masks: its targets
    are masked clicks of the sequence (:meth:`cloze`), and a user's vector is the state of a mask behind the context."""

    def __init__(self, settings: Any, dim: int, max_length: int, dropout: float) -> None:
        super().__init__()

    @classmethod
    def cloze(cls, settings: Any) -> Cloze | None:
        """Which clicks are masked in training; None: none, as the next click is predicted after each."""
        return None

    def embed(self, items: Tensor, sequences: PackedSequences) -> Tensor:
        """Vectors of the clicks [T, D] → what enters :meth:`forward` for them [T, D]: positions, times, dropout."""
        return items

    def forward(self, x: Tensor, sequences: PackedSequences) -> Tensor:
        """Prompts and embedded clicks [R, D] → states [R, D]."""
        raise NotImplementedError

    def adaptable(self) -> tuple[str, ...]:
        """Submodules (dotted names) whose output [R, D] is added to a residual: adapters go behind them."""
        return ()

    def patchable(self) -> tuple[str, ...]:
        """Layers (dotted names), two in each block that has two, called with rows [R, …] first and giving [R, D]:
        patches go behind them or beside them.
        """
        return self.adaptable()

    def projections(self) -> tuple[str, ...]:
        """Layers (dotted names) that are products with a weight matrix, called with rows [R, …] first and giving rows:
        those of attention and feed-forward networks. LoRA goes beside them, masks on their weights.
        """
        return tuple(name for name, module in self.named_modules() if isinstance(module, nn.Linear))

    @property
    def prompted_layers(self) -> int:
        """Layers that ask :meth:`PackedSequences.with_own_prompts` for prompts of their own; 0: it has no such."""
        return 0

    def last_layer(self) -> tuple[str, ...]:
        """How the names of its last layer's parameters begin, and of what stands behind it; none: it has no such."""
        return ()

    def flops(self, rows: int, squared: int) -> float:
        """FLOPs of a forward pass over ``rows`` rows, the squared lengths of whose sequences sum to ``squared``."""
        return 0.0

    def step_flops(self, rows: int, squared: int) -> float:
        """The same of a forward and a backward pass."""
        return 3 * self.flops(rows, squared)
