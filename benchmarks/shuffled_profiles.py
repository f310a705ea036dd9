"""Do profiles themselves matter? Users exchange theirs at random, and ``prepare`` and all after it see the result.

    python -m benchmarks.shuffled_profiles USERS.parquet OUT.parquet [--seed 0]

Every profile stays whole and there are as many of each; what a user clicks has nothing to do with the new one. A method
that is as good on such data learned nothing from profiles.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("users", type=Path, metavar="USERS.parquet")
    parser.add_argument("out", type=Path, metavar="OUT.parquet")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shuffle(options.users, options.out, options.seed)


def shuffle(users: Path, out: Path, seed: int = 0) -> None:
    """Write ``users`` to ``out`` with the rows of all columns but user_id in an order drawn by ``seed``."""
    table = pq.read_table(users)
    others = table.drop_columns("user_id").take(np.random.default_rng(seed).permutation(len(table)))
    pq.write_table(others.add_column(0, "user_id", table.column("user_id")), out)


if __name__ == "__main__":
    main()
