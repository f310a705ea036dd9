"""What every entry point shares: parse strictly, run, and end with one clear line on bad input."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable

from ppr_dist.errors import UserError

RANK_0_SPEAKS_WITHIN = 20.0
"""Seconds another rank waits before it ends with an error that all have."""


def run(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> None:
    """Run ``main``; print a :class:`UserError` as one line on stderr and exit with status 2.

    An error raised on every rank (``rank`` unset on the exception) is printed by rank 0 alone; an error
    that struck one rank carries ``rank`` and is printed by that rank, after which torchrun ends the others; one
    that meets the broken connection before says so in a line, and no traceback hides the cause.
    """
    try:
        main(argv)
    except UserError as error:
        rank = int(os.environ.get("RANK", "0"))
        struck = getattr(error, "rank", None)
        if struck is None and rank != 0:
            # torchrun ends all ranks once one has failed: rank 0, still importing perhaps, must have spoken before.
            time.sleep(RANK_0_SPEAKS_WITHIN)
            struck = rank  # still here, so it was not an error that all have
        where = f" (rank {struck})" if struck is not None and "RANK" in os.environ else ""
        print(f"ppr_dist: error{where}: {error}", file=sys.stderr, flush=True)
        # Other threads (a loader's workers, gloo) must not keep a failed process alive.
        os._exit(2)
    except RuntimeError as error:
        if not re.search("(closed|reset) by peer", str(error)):  # as gloo says it
            raise
        print(f"ppr_dist: rank {os.environ.get('RANK')} ends: another rank is gone", file=sys.stderr, flush=True)
        os._exit(3)
    except KeyboardInterrupt:
        os._exit(130)
