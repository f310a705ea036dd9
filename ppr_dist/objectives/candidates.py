"""Candidates that all ranks share: whose targets serve, which uniform draws are this rank's, how many a rank gives.

Shapes as in :mod:`ppr_dist.objectives.base`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ppr_dist.arrays import Int64Array
from ppr_dist.data.counter_random import integers
from ppr_dist.data.stream.step_users import StepUsers
from ppr_dist.errors import UserError, require_positive
from ppr_dist.objectives.base import StepShape

_SERVE = 14  # what a draw is for, as a word of its key


class CandidateSettings(Protocol):
    """What a section says of candidates."""

    @property
    def uniform_negatives(self) -> int: ...

    @property
    def in_batch_per_user(self) -> int: ...

    @property
    def in_batch_users(self) -> int: ...


def require_candidates(settings: CandidateSettings, section: str) -> None:
    """Raise :class:`UserError` where the settings of ``section`` make no sense or give no candidates."""
    require_positive(settings, section, "in_batch_users")
    if settings.uniform_negatives < 0 or settings.in_batch_per_user < 0:
        raise UserError(f"{section}.uniform_negatives and {section}.in_batch_per_user must not be negative")
    if settings.uniform_negatives + settings.in_batch_per_user < 1:
        raise UserError(f"{section} needs uniform_negatives or in_batch_per_user above 0")


def serving(users: StepUsers, most: int) -> npt.NDArray[np.bool_]:
    """Whose targets serve as candidates, of this rank's users, [B].

    Where the batch has more than ``most`` users, one at random of each of as many equal parts of it.
    """
    everyone = users.global_users
    if everyone <= most:
        return np.ones(len(users.index), np.bool_)
    edges = np.arange(most + 1) * everyone // most
    draw = integers(2**62, users.seed, _SERVE, users.epoch, users.step, np.arange(most))
    chosen = edges[:-1] + draw % np.diff(edges) - users.rank * everyone // users.world_size
    serves = np.zeros(len(users.index), np.bool_)
    serves[chosen[(chosen >= 0) & (chosen < len(serves))]] = True
    return serves[users.place]


def most_serving(users: StepUsers, most: int) -> int:
    """Users of any rank that serve, at most; the same number on every rank.

    n neighbours of the batch lie in at most n·serving/users + 2 of its parts.
    """
    everyone, each = users.global_users, -(-users.global_users // users.world_size)
    return min(each, each * min(everyone, most) // max(1, everyone) + 2)


def own_draws(count: int, users: StepUsers) -> Int64Array:
    """Numbers of this rank's part of ``count`` uniform draws of the step; on no rank more than ceil(count / W)."""
    first, last = (rank * count // users.world_size for rank in (users.rank, users.rank + 1))
    return np.arange(first, last)


def given(settings: CandidateSettings, shape: StepShape, per_user: int) -> tuple[int, int]:
    """Candidates of a rank, as a plan expects them: in the batch, and uniform."""
    serve = min(shape.max_users_per_rank, -(-settings.in_batch_users // shape.world_size))
    return serve * per_user, -(-settings.uniform_negatives // shape.world_size)
