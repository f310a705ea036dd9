"""``python -m ppr_dist.p5.evaluate``: rank held-out clicks by beam search over codes of items, and recommend items."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ppr_dist import cli, options
from ppr_dist.data.remote import DataFolder
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    run_dir: Path
    """A run pre-trained on what ppr_dist.p5.prepare wrote."""
    task: list[Literal["next-item", "validation"]] = dataclasses.field(default_factory=lambda: ["next-item"])
    """A warm user's last click, or the last but one."""
    data: Path | None = None
    """Folder that ppr_dist.p5.prepare wrote; by default where the run found it."""
    of: DataFolder | None = None
    """The prepared folder that its sentences are about; by default where it was."""
    cluster: Path | None = None
    """Cluster file (sharding/*.yaml) to place the table by; by default the run's own, else what this machine has."""
    beams: int = 20
    """Beginnings of items followed at once (P5's number); metrics beyond that many items are not reported."""
    out: Path | None = None
    """Parquet data set to write, a folder of part files: the best unseen items after all clicks of each warm user, with
    user_id, item_id, rank (1 = best), score (the logarithm of the probability); in the order of the user index."""
    k: int = 10
    """Items of each user that are written; at most ``beams`` are found."""
    batch: int = 256
    """Users each rank reads at once."""
    progress: bool = True
    """Show a progress bar on rank 0."""

    def __post_init__(self) -> None:
        if min(self.beams, self.k, self.batch) < 1:
            raise UserError("--beams, --k and --batch must be at least 1")
        if self.out and len(self.task) > 1:
            raise UserError("--out is written once; name one task")


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Print a JSON line for each task, and return them."""
    (arguments,), _ = options.parse("ppr_dist.p5.evaluate", argv, [Arguments])
    # Imported once the options are read: torch, TorchRec and DeepSpeed take seconds, and --help needs none of them.
    from ppr_dist.p5 import ranking

    return ranking.evaluate(arguments)


if __name__ == "__main__":
    cli.run(main)
