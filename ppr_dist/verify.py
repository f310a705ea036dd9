"""``python -m ppr_dist.verify --run-dir RUN``: prove from the files alone what a run was trained on.

Every checkpoint's files are those that were written, and over the steps trained every user of an epoch was consumed
exactly once, whatever was killed and on however many ranks it went on. ``--replay A:B`` trains from checkpoint A to
checkpoint B again and compares all that B holds. Status: 0 it holds, 2 it does not, or the files say nothing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ppr_dist import cli, options
from ppr_dist.data.remote import DataFolder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    run_dir: Path
    """A pre-trained or tuned run."""
    data: DataFolder | None = None
    """Folder that prepare wrote; by default the one the run was trained on."""
    init: Path | None = None
    """Of a tuned run that holds only what was tuned: the pre-trained run, where it no longer lies where it was."""
    replay: str | None = None
    """A:B, steps of two of the run's checkpoints: train from A to B again."""


def main(argv: list[str] | None = None) -> None:
    (arguments,), _ = options.parse("ppr_dist.verify", argv, [Arguments])
    from ppr_dist import verification

    verification.verify(arguments)


if __name__ == "__main__":
    cli.run(main)
