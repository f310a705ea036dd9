"""pretrain on a disk that is full for rank 1, or for the only one: no file of it may grow beyond 50 kB."""

from __future__ import annotations

import os
import resource

from ppr_dist import pretrain


def main(argv: list[str] | None = None) -> None:
    if os.environ.get("RANK", "1") == "1":
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # a write beyond fails with EFBIG
    pretrain.main(argv)
