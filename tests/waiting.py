"""A command that imports nothing heavy and does as its argument says: waits to be ended, or refuses its input."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ppr_dist import cli
from ppr_dist.errors import UserError


def main(argv: list[str] | None = None) -> None:
    if argv == ["refuse"]:
        raise UserError("--train.lr: not a number")
    Path(f"rank-{os.environ['RANK']}").touch()
    time.sleep(600)


if __name__ == "__main__":
    import sys

    cli.run(main, sys.argv[1:])
