"""A loss or a gradient that is NaN or infinite ends the run, and names the step and its users.

Tables have moved by then (FBGEMM updates them inside backward), so the step cannot be left out: the way back is the
checkpoint before it, and none is written after it.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ppr_dist.batch import Batch
from ppr_dist.checkpoint.position import checkpoints
from ppr_dist.data.raw_ids import UserIds
from ppr_dist.errors import UserError
from ppr_dist.files import replace
from ppr_dist.parallel.distributed import on_main
from ppr_dist.step_loss import StepLoss

NAMED = 5
"""Users named in the line; the file names all."""
FILE = "not_finite.json"


class _Step(NamedTuple):
    """One step's figures on their way to the host."""

    number: int
    figures: Tensor
    """This rank's part of the loss and the gradient norm over all ranks, [2], on the host once ``arrived``."""
    arrived: torch.cuda.Event | None
    users: Tensor
    user_rows: Tensor
    user_sums: Tensor

    def known(self) -> bool:
        return self.arrived is None or self.arrived.query()

    def finite(self) -> bool:
        return all(map(math.isfinite, self.figures.tolist()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """What one rank found."""

    rank: int
    step: int
    loss: float
    gradient_norm: float
    by_vectors: bool
    """Whether the vectors of some users are not finite themselves."""
    users: list[int]
    """Indices of these; of all users of the step where every vector is finite."""


class FiniteGuard:
    """Looks at every step's loss and gradient norm without waiting for a GPU: it knows once their copies are there."""

    def __init__(self, run: Path, data: Path) -> None:
        self.run, self.data = run, data
        self._under_way: collections.deque[_Step] = collections.deque()
        self._bad: _Step | None = None

    def note(self, step: int, loss: StepLoss, norm: Tensor | float | None, batch: Batch) -> None:
        """Start to copy the figures of a step to the host."""
        # DeepSpeed's ZeRO gives a plain number where it found the norm not to be finite.
        if not isinstance(norm, Tensor):
            norm = torch.full_like(loss.total, norm or 0.0)
        figures, arrived = torch.stack([loss.total, norm.to(loss.total)]), None
        if figures.is_cuda:
            figures, arrived = figures.to("cpu", non_blocking=True), torch.cuda.Event()
            arrived.record()
        self._under_way.append(_Step(step, figures, arrived, batch.users, batch.user_rows, loss.user_sums))

    def seen(self) -> bool:
        """Whether a step is known here to be bad; does not wait."""
        while self._bad is None and self._under_way and self._under_way[0].known():
            step = self._under_way.popleft()
            self._bad = None if step.finite() else step
        return self._bad is not None

    def require_finite(self) -> None:
        """Raise :class:`UserError`, on all ranks alike, where any step so far was bad. Waits for all. A collective."""
        for step in self._under_way:
            if step.arrived is not None:
                step.arrived.synchronize()
        found: list[_Found | None] = [None] * dist.get_world_size()
        dist.all_gather_object(found, self._found() if self.seen() else None)
        if any(found):
            raise UserError(on_main(lambda: self._say([each for each in found if each])))

    def _found(self) -> _Found:
        assert self._bad is not None
        bad = self._bad
        rows = bad.user_rows[~bad.user_sums.isfinite()].unique()
        users = bad.users[rows] if len(rows) else bad.users
        loss, norm = bad.figures.tolist()
        return _Found(
            rank=dist.get_rank(),
            step=bad.number,
            loss=loss,
            gradient_norm=norm,
            by_vectors=len(rows) > 0,
            users=users.tolist(),
        )

    def _say(self, found: list[_Found]) -> str:
        """One line of the first bad step, and a file of all its users."""
        first = min(each.step for each in found)
        found = [each for each in found if each.step == first]
        # The norm is that of all ranks, and a loss compares with candidates of all: the closest to the cause is named.
        by_loss = [each for each in found if not math.isfinite(each.loss)]
        found = [each for each in found if each.by_vectors] or by_loss or found
        ids = UserIds(self.data)
        named = [ids.take(np.sort(np.array(each.users, np.int64))).to_pylist() for each in found]
        ranks = [dataclasses.asdict(each) | {"users": users} for each, users in zip(found, named, strict=True)]
        replace(self.run / FILE, json.dumps(ranks, indent=1, default=str) + "\n")
        users = [str(user) for of_rank in named for user in of_rank]
        more = f" and {len(users) - NAMED} more" if len(users) > NAMED else ""
        saved = [path.name for path in checkpoints(self.run)[-1:]]
        return (
            f"step {first}: loss {found[0].loss}, gradient norm {found[0].gradient_norm} "
            f"(rank {', '.join(str(each.rank) for each in found)}), of users {', '.join(users[:NAMED])}{more}: "
            f"{self.run / FILE}; no checkpoint was written after it"
            + (f", the last is {saved[0]}" if saved else ", and there is none before")
        )
