"""Convert a public data set, as it is published, into what ``prepare`` reads: ``python -m ppr_dist.convert --help``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from ppr_dist import cli, options
from ppr_dist.data.readers import READERS
from ppr_dist.data.readers.convert import Converted, convert
from ppr_dist.errors import choose


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    from_: str
    """The data set."""
    raw: Path
    """Its files as they are published: a folder, a zip, or one file. Written without --raw in front, too."""
    out: Path
    """Folder to write: interactions.parquet, and users.parquet and items.parquet where there are any."""
    min_rating: float | None = None
    """Leave out clicks with a lower rating (stars), for data sets of ratings; null = every rating is a click."""
    overwrite: bool = False
    """Replace a folder that was converted before."""
    memory_limit: str | None = None
    """Memory DuckDB may use before it spills, e.g. ``4GB``; null = DuckDB's default (80 % of the machine)."""
    temp_dir: str | None = None
    """Folder for spills and unpacked files; null = beside the output."""


def main(argv: list[str] | None = None) -> Converted:
    """Parse ``argv``, convert, print a summary, and return what was written."""
    about = "A public data set, as it is published, into what prepare reads."
    (arguments,), _ = options.parse(
        "ppr_dist.convert", argv, [Arguments], description=about, parts={"from_": READERS}, positional="raw"
    )
    reader = choose("--from", arguments.from_, READERS)
    started = time.perf_counter()
    result = convert(
        arguments.from_,
        reader,
        arguments.raw,
        arguments.out,
        min_rating=arguments.min_rating,
        overwrite=arguments.overwrite,
        memory_limit=arguments.memory_limit,
        temp_dir=arguments.temp_dir,
    )
    print(summary(result, arguments.out, time.perf_counter() - started))
    return result


def summary(result: Converted, out: Path, seconds: float) -> str:
    """Return what was written, a line for each file, and what was left out."""
    head = f"{out}: {result.clicks:,} clicks of {result.users:,} users on {result.items:,} items in {seconds:.1f} s"
    files = {
        f"{name}.parquet": f"{rows:,} rows: {', '.join(result.columns[name])}" for name, rows in result.tables.items()
    }
    rows = files | {"left out": "; ".join(f"{count:,} {said}" for said, count in result.left_out.items()) or "nothing"}
    rows["terms"] = f"{result.terms} ({result.page})"
    width = max(map(len, rows))
    return "\n".join([head, *(f"  {name:<{width}} {text}" for name, text in rows.items())])


if __name__ == "__main__":
    cli.run(main)
