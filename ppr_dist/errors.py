"""What a user can act on: errors that end a command, and warnings that do not."""

from __future__ import annotations

import sys

from tqdm import tqdm


class UserError(Exception):
    """Bad input or configuration, said in one line that names the file, row or key.

    Entry points print it without a traceback and exit with status 2 (:mod:`ppr_dist.cli`).
    """


def warn(text: str) -> None:
    """Say one line on stderr, above a progress bar where there is one."""
    tqdm.write(f"ppr_dist: warning: {text}", file=sys.stderr)
