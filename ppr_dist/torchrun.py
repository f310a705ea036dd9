"""torchrun, with every argument behind the module left to the module.

torchrun's argparse looks for abbreviations of its own options among the script's arguments too, and stops at our
``--run`` ("ambiguous option: --run could match --run-path"; seen with Python 3.11.7, 3.12.1 and 3.13.0). A ``--`` in
front of the module ends the search: ``torchrun … -m -- ppr_dist.pretrain --run RUN``. This puts it there. The project's
environment installs it as ``.venv/bin/torchrun``.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def separated(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Return ``argv`` with ``--`` before the first argument that is neither an option of ``parser`` nor its value."""
    options = parser._option_string_actions
    position = 0
    while position < len(argv) and argv[position].startswith("-") and argv[position] != "--":
        name, equals, _ = argv[position].partition("=")
        action = options.get(name)
        takes_value = action is not None and action.nargs != 0 and not equals
        position += 1 + takes_value
    return [*argv[:position], "--", *argv[position:]] if argv[position : position + 1] not in ([], ["--"]) else argv


def main() -> None:
    """Run torchrun; where a rank fails, say which in one line and exit with its status."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own default, without its banner
    try:
        run.main(separated(run.get_args_parser(), sys.argv[1:]))
    except ChildFailedError as error:
        # The rank has said why on stderr; torchrun's hundred lines about it would bury that.
        rank, failure = error.get_first_failure()
        print(f"torchrun: rank {rank} failed with status {failure.exitcode}", file=sys.stderr, flush=True)
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)


if __name__ == "__main__":
    main()
