"""``make bench``: a short form of every benchmark that needs neither a GPU nor a downloaded log."""

from __future__ import annotations

import argparse
import subprocess
import sys

SHORT = [
    ["benchmarks.fractal"],
    ["benchmarks.catalog_scaling", "--sizes", "100000", "1000000", "--rounds", "3"],
    ["benchmarks.loader", "--users", "50000"],
    ["benchmarks.loss", "--rounds", "3"],
    ["benchmarks.prepare", "--sizes", "1000000"],
    ["benchmarks.retrieval", "--sizes", "100000", "--rounds", "3"],
    ["benchmarks.weak_scaling", "--users", "128", "--rounds", "4", "--seconds", "2"],
    ["benchmarks.hot_ids", "--items", "100000", "--ranks", "2", "8"],
]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, *arguments in SHORT:
        print(f"--- python -m {name} {' '.join(arguments)}", flush=True)
        subprocess.run([sys.executable, "-m", name, *arguments], check=True)


if __name__ == "__main__":
    main()
