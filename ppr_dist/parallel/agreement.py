"""What one rank has to say after a step, known to all of them a step later, so that all act on the same step.

A checkpoint is a collective, and so is the next step: a rank that stopped alone would leave the others waiting.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.distributed as dist
from torch import Tensor

from ppr_dist.parallel.collectives import Pending


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signs:
    """What a rank says, or, of all ranks, what any of them said."""

    time_is_up: bool = False
    """train.max_minutes have passed."""
    preempted: bool = False
    """A signal asks to stop here and to go on later."""
    not_finite: bool = False
    """A loss or gradient norm was NaN or infinite."""
    checkpoint_failed: bool = False
    """A checkpoint under way could not be written."""


_NAMES = tuple(field.name for field in dataclasses.fields(Signs))


class Agreement:
    """One message of each rank to all after every step. On the host, over gloo, also where the step is on a GPU.

    It travels while the next step computes. Of the host's time a step it takes 60 µs, or 0.35 ms where the step before
    has emptied the caches (measured, two ranks on a CPU of two cores).
    """

    def __init__(self) -> None:
        self._under_way: Pending | None = None

    def exchange(self, mine: Signs) -> Signs:
        """Start to tell all ranks; return what they said at the call before: nothing at the first. A collective."""
        before, self._under_way = self._under_way, _start(mine)
        return _signs(before.wait()) if before else Signs()

    def at_once(self, mine: Signs) -> Signs:
        """What all ranks say now; waits for the slowest. A collective."""
        return _signs(_start(mine).wait())


def _start(mine: Signs) -> Pending:
    said = torch.tensor([*vars(mine).values()], dtype=torch.uint8)
    if dist.get_world_size() == 1:
        return Pending(None, lambda: said)
    return Pending(dist.all_reduce(said, dist.ReduceOp.MAX, async_op=True), lambda: said)


def _signs(said: Tensor) -> Signs:
    return Signs(**dict(zip(_NAMES, map(bool, said.tolist()), strict=True)))
