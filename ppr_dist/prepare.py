"""Prepare a data set from click logs and profiles: ``python -m ppr_dist.prepare --help``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ppr_dist import cli
from ppr_dist.data import options
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.prepare_config import PrepareConfig
from ppr_dist.data.prepared import prepare


def main(argv: list[str] | None = None) -> None:
    """Parse ``argv``, prepare, and print a summary."""
    parser = options.parser("python -m ppr_dist.prepare", "Click logs and profiles into shards for training.")
    parser.add_argument(
        "--interactions", type=str, required=True, help="Parquet or CSV: a file, a glob or a folder"
    )
    parser.add_argument(
        "--users", type=str | None, default=None, help="profiles, likewise; none = no attributes"
    )
    parser.add_argument("--out", type=str, required=True, help="folder to write")
    parser.add_argument("--overwrite", type=bool, default=False, help="replace a prepared folder")
    parser.add_class_arguments(PrepareConfig)
    arguments = options.parse(parser, sys.argv[1:] if argv is None else argv)
    config = options.build(PrepareConfig, arguments)
    started = time.perf_counter()
    manifest = prepare(
        arguments.interactions, arguments.users, Path(arguments.out), config, overwrite=arguments.overwrite
    )
    print(summary(manifest, arguments.out, time.perf_counter() - started))


def summary(manifest: Manifest, out: str, seconds: float) -> str:
    """Return what was written, a line per split."""
    lines = [f"{out}: {manifest.items:,} items in {seconds:.1f} s"]
    for name, split in manifest.splits.items():
        lines.append(
            f"  {name:<10} {split.users:,} users, {split.events:,} events, {len(split.shards)} shards"
        )
    sizes = ", ".join(f"{a.name} ({a.cardinality})" for a in manifest.attributes)
    lines.append(f"  attributes {sizes or 'none'}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
