"""Where a run stands, and which of its checkpoints is used."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

from ppr_dist.checkpoint.certificate import Span
from ppr_dist.data.stream.user_stream import StreamState
from ppr_dist.errors import UserError

_NAME = re.compile(r"step-(\d{8})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best:
    """The best validation so far."""

    metric: str
    value: float
    step: int
    """Where it was; the checkpoint of that step is kept."""
    since: int = 0
    """Validations after it, none of them better."""

    def then(self, value: float, step: int) -> Best:
        """What is best after one more validation. A tie is no better, nor is what is not a number."""
        if value > self.value or (math.isnan(self.value) and not math.isnan(value)):
            return Best(metric=self.metric, value=value, step=step)
        return dataclasses.replace(self, since=self.since + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands, small enough for JSON."""

    step: int
    """Steps done in all epochs."""
    stream: StreamState
    """The data the run was reading, as of its first step."""
    world_size: int
    best: Best | None = None
    """None before the first validation."""
    trained: tuple[Span, ...] = ()
    """What has been trained up to here (:mod:`ppr_dist.checkpoint.certificate`)."""


def checkpoint_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies, or would."""
    return run / "checkpoints" / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """The checkpoint of a run that is used."""

    path: Path
    step: int
    best: Best | None
    """By what it was chosen; None: it is the latest."""

    def __str__(self) -> str:
        why = f"best {self.best.metric} of validation, {self.best.value:.4f}" if self.best else "the last"
        return f"{self.path.parents[1]}: step {self.step} ({why})"


def chosen(run: Path) -> Chosen:
    """The best checkpoint of a run where validation chose one, else the latest.

    Raises :class:`UserError` where there is none.
    """
    found = checkpoints(run)
    if not found:
        raise UserError(f"{run}: no checkpoint in {run / 'checkpoints'}")
    last = read_position(found[-1])
    if last.best is None:
        return Chosen(path=found[-1], step=last.step, best=None)
    best = checkpoint_of(run, last.best.step)
    if best not in found:
        raise UserError(f"{best}: gone, though {found[-1].name} says that it is the best")
    return Chosen(path=best, step=last.best.step, best=last.best)


def read_position(checkpoint: Path) -> Position:
    path = checkpoint / "position.json"
    try:
        body = json.loads(path.read_text())
        best = Best(**body["best"]) if body["best"] is not None else None
        trained = tuple(Span(**span) for span in body.get("trained", ()))
        return Position(**{**body, "stream": StreamState(**body["stream"]), "best": best, "trained": trained})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
