"""The pre-trained checkpoint that a tuned run's own stand on, where they hold only what was tuned.

Beside it lies ``step-00000100.kept-by``, which names these runs, a line each. While that file is there the checkpoint
stays, whatever is kept of its run otherwise; its own files and their checksums know nothing of it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ppr_dist.checkpoint.checksums import chain_link
from ppr_dist.checkpoint.position import Chosen, checkpoint_of, read_position
from ppr_dist.errors import UserError, warn


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseCheckpoint:
    """Where it was, and by what it is known again."""

    run: str
    """Absolute path of its run."""
    step: int
    sha256: str
    """Of its ``checksums.json``, which has the SHA-256 of every other file."""


def identify(checkpoint: Chosen) -> BaseCheckpoint | None:
    """None where it was written without checksums, by an earlier version: nothing would know it again."""
    link = chain_link(checkpoint.path)
    run = str(checkpoint.path.resolve().parents[1])
    return (link and BaseCheckpoint(run=run, step=checkpoint.step, sha256=link)) or None


def keep(base: BaseCheckpoint, tuned: Path) -> None:
    """Have the checkpoint stay for the run ``tuned``, which begins to stand on it, or say that it cannot be written.

    Raises :class:`UserError` where pre-training has dropped it since it was loaded.
    """
    path = checkpoint_of(Path(base.run), base.step)
    try:
        with _mark(path).open("a") as file:
            file.write(f"{tuned.resolve()}\n")
    except OSError as error:
        warn(f"{_mark(path)}: {error.strerror}: keep {path} yourself, since {tuned} stands on it")
    if not path.is_dir():
        raise UserError(f"{path}: dropped while it was read: tune again, from a later one")


def is_kept(checkpoint: Path) -> bool:
    """Whether a tuned run stands on it; one that is gone by now counts too."""
    return _mark(checkpoint).exists()


def _mark(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.kept-by")


def find(base: BaseCheckpoint, of: Path, init: Path | None = None) -> Chosen:
    """The checkpoint that the tuned run ``of`` stands on; ``init``: where its run lies now, by default where it was.

    Raises :class:`UserError` where it is gone, or another one.
    """
    run = init or Path(base.run)
    path = checkpoint_of(run, base.step)
    if not path.is_dir():
        raise UserError(f"{of} stands on {path}, which is not there: name the pre-trained run by --init")
    if chain_link(path) != base.sha256:
        raise UserError(
            f"{of} stands on step {base.step} of {base.run} as it was then, and {path} is another checkpoint: name the "
            "pre-trained run by --init"
        )
    best = read_position(path).best
    return Chosen(path=path, step=base.step, best=best if best and best.step == base.step else None)
