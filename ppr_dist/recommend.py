"""``python -m ppr_dist.recommend``: the best unseen items of the whole catalogue for users from raw files."""

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
    users: Path
    """Parquet or CSV: user_id and profile columns. Each row gets recommendations; the user may be new."""
    out: Path
    """Parquet data set to write, a folder of part files: user_id, item_id, rank (1 = best), score; in the order of
    the users file."""
    interactions: Path | None = None
    """Parquet or CSV with the users' clicks; users without any are served from the profile alone."""
    user_vectors: Path | None = None
    """Vectors of the users, as prepare was given them, where the run was tuned with such; one without has zeros."""
    data: DataFolder | None = None
    """Folder that prepare wrote; by default the one the run was trained on."""
    init: Path | None = None
    """Of a tuned run that holds only what was tuned: the pre-trained run, where it no longer lies where it was."""
    cluster: Path | None = None
    """Cluster file (sharding/*.yaml) to place the tables by; by default the run's own, else what this machine has."""
    k: int = 10
    """Items per user."""
    batch: int = 4096
    """Users each rank reads at once."""
    memory_limit: str = "1GB"
    """Memory DuckDB may use, on rank 0, to read the raw files, before it spills beside the output."""
    progress: bool = True
    """Show a progress bar on rank 0."""


def main(argv: list[str] | None = None) -> Path:
    """Write the recommendations; return where they are."""
    (arguments,), _ = options.parse("ppr_dist.recommend", argv, [Arguments])
    if arguments.k < 1 or arguments.batch < 1:
        raise UserError("--k and --batch must be at least 1")
    # Imported once the options are read: torch, TorchRec and DeepSpeed take seconds, and --help needs none of them.
    from ppr_dist import recommendation

    recommendation.recommend(arguments)
    return Path(arguments.out)


if __name__ == "__main__":
    cli.run(main)
