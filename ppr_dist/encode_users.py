"""``python -m ppr_dist.encode_users``: user vectors of a run, as a Parquet data set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ppr_dist import cli, options
from ppr_dist.data.remote import DataFolder
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    run_dir: Path
    """A pre-trained or tuned run."""
    out: Path
    """Parquet data set to write, a folder of part files: user_id, vector; in the order of the users' index."""
    data: DataFolder | None = None
    """Folder that prepare wrote; by default the one the run was trained on."""
    init: Path | None = None
    """Of a tuned run that holds only what was tuned: the pre-trained run, where it no longer lies where it was."""
    cluster: Path | None = None
    """Cluster file (sharding/*.yaml) to place the tables by; by default the run's own, else what this machine has."""
    batch: int = 4096
    """Users each rank reads at once."""
    progress: bool = True
    """Show a progress bar on rank 0."""


def main(argv: list[str] | None = None) -> Path:
    """Write the vectors; return where they are."""
    (arguments,), _ = options.parse("ppr_dist.encode_users", argv, [Arguments])
    if arguments.batch < 1:
        raise UserError("--batch must be at least 1")
    # Imported once the options are read: torch, TorchRec and DeepSpeed take seconds, and --help needs none of them.
    from ppr_dist import user_vectors

    user_vectors.encode_users(arguments)
    return Path(arguments.out)


if __name__ == "__main__":
    cli.run(main)
