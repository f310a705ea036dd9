"""``python -m ppr_dist.pretrain``: pre-train a sequential recommender on warm users."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from ppr_dist import cli
from ppr_dist.data.remote import DataFolder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    data: DataFolder
    """Folder that prepare wrote, or its address (s3://, gs://, http://)."""
    split: list[Literal["pretrain", "tune-train"]] = dataclasses.field(default_factory=lambda: ["pretrain"])
    """Users to train on: the warm ones, or with tune-train the cold ones to tune on too. The last two clicks of each
    warm user are held out (``train.refit``: the last one); of the others none is."""
    run_dir: Path
    """Folder for configuration, metrics and checkpoints."""
    resume: bool = False
    """Go on from the run's latest checkpoint, if it has one."""
    profile: bool = False
    """Write a trace of a few steady steps of each rank, its top operators and, on a GPU, a snapshot of its memory to
    RUN/profile."""


def main(argv: list[str] | None = None) -> None:
    from ppr_dist.read_config import parse

    arguments, config = parse("ppr_dist.pretrain", argv, Arguments)
    # Imported once the options are read: TorchRec and DeepSpeed take seconds, and --help needs neither.
    from ppr_dist import training

    training.pretrain(arguments, config)


if __name__ == "__main__":
    cli.run(main)
