"""``python -m ppr_dist.tune``: adapt a pre-trained run to cold users, by prompts, fine-tuning or another method."""

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
    init: Path
    """Pre-trained run to start from."""
    method: str
    """Tuning method (ppr_dist/tuning)."""
    run_dir: Path
    """Folder for configuration, metrics and checkpoints."""
    resume: bool = False
    """Go on from the run's latest checkpoint, if it has one."""
    profile: bool = False
    """Write a trace of a few steady steps of each rank, its top operators and, on a GPU, a snapshot of its memory to
    RUN/profile."""
    split: list[Literal["tune-train", "pretrain"]] = dataclasses.field(default_factory=lambda: ["tune-train"])
    """Users to tune on: cold ones, warm ones, or both."""
    new_catalogue: bool = False
    """The data shares no items with that of --init: the model goes on as it was saved, while tables of items and of
    profiles begin anew and are trained, and what is known of items is the data's."""


def main(argv: list[str] | None = None) -> None:
    from ppr_dist.read_config import parse_tuning

    arguments, config, asked = parse_tuning("ppr_dist.tune", argv, Arguments)
    # Imported once the options are read: TorchRec and DeepSpeed take seconds, and --help needs neither.
    from ppr_dist import training

    training.tune(arguments, config, asked)


if __name__ == "__main__":
    cli.run(main)
