"""Prepare a data set from click logs and profiles: ``python -m ppr_dist.prepare --help``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ppr_dist import cli, options
from ppr_dist.data.prepare.config import PrepareConfig

if TYPE_CHECKING:
    from ppr_dist.data.manifest import Manifest

KINDS = {
    "duplicate": "exact duplicates",
    "tied": "tied in time or position",
    "repeated": "on the item of the click before",
}
"""How the summary calls the clicks that the manifest counts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where to read and write; the rest is :class:`PrepareConfig`."""

    interactions: str
    """Click log, Parquet or CSV: a file, a glob or a folder."""
    users: str | None = None
    """Profiles, likewise; null = no attributes."""
    items: str | None = None
    """Texts of items, Parquet or CSV with the item column: the words of the item encoder ``tokens``; null = none."""
    item_features: dict[str, str] = dataclasses.field(default_factory=dict)
    """Vectors of items by name (--item-features.text FILE): Parquet with the item column and a column of lists, or .npy
    whose row n is of item n. Their items are in the catalogue, clicked or not; stored in half precision."""
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    """Labels of users by label space (--labels.NAME FILE), to be predicted: Parquet or CSV with the user column and a
    column ``label`` of integers or strings, a row for each label of a user, who may have none, one or several."""
    user_vectors: str | None = None
    """Vectors of users, as encode_users writes them: Parquet or CSV with the user column and a column of lists, or
    columns of numbers; beside the attributes they are what prompts and profile encoder read. Users without one have
    zeros; stored in half precision. null = none."""
    out: Path
    """Folder to write."""
    overwrite: bool = False
    """Replace a prepared folder."""


def main(argv: list[str] | None = None) -> None:
    """Parse ``argv``, prepare, and print a summary."""
    about = "Click logs and profiles into shards for training."
    (arguments, config), _ = options.parse("ppr_dist.prepare", argv, [Arguments, PrepareConfig], description=about)
    from ppr_dist.data.prepare.pipeline import prepare  # not before the options are read: --help should not wait for it

    started = time.perf_counter()
    manifest = prepare(
        arguments.interactions,
        arguments.users,
        arguments.out,
        config,
        items=arguments.items,
        item_features=arguments.item_features,
        labels=arguments.labels,
        user_vectors=arguments.user_vectors,
        overwrite=arguments.overwrite,
    )
    print(summary(manifest, arguments.out, time.perf_counter() - started))


def summary(manifest: Manifest, out: Path, seconds: float) -> str:
    """Return what was written, a line per split."""
    rows = {
        name: f"{split.users:,} users, {split.events:,} clicks, {len(split.shards)} tar shards"
        for name, split in manifest.splits.items()
    }
    rows["attributes"] = ", ".join(f"{a.name} ({a.cardinality})" for a in manifest.attributes) or "none"
    if manifest.labels:
        spaces = (f"{s.name}: {s.size:,}, of {s.users:,} users, at most {s.most:,} each" for s in manifest.labels)
        rows["labels"] = "; ".join(spaces)
    if manifest.item_data:
        data = manifest.item_data.items()
        rows["item data"] = "; ".join(f"{n}: {d.columns} numbers of {d.known:,} items" for n, d in data)
    if manifest.user_vectors:
        users = sum(split.users for split in manifest.splits.values())
        found = manifest.user_vectors
        rows["user vectors"] = f"{found.columns} numbers of {found.known:,} of {users:,} users"
    read, dropped = manifest.clicks["read"], manifest.settings["deduplicate"]
    left_out = {"duplicate": dropped is not None, "repeated": dropped == "consecutive"}
    shares = [
        f"{manifest.clicks[kind] / read:.2%} {text}{' (left out)' if left_out.get(kind) else ''}"
        for kind, text in KINDS.items()
    ]
    order, time = manifest.settings["order_column"], manifest.settings["time_column"]
    unit = manifest.settings["time_unit"]
    rows["log"] = f"{read:,} clicks; {', '.join(shares)}"
    kept = "kept" if manifest.times else "not kept"
    rows["order"] = f"by {order}; {f'time is {time} (if numbers, in {unit}), {kept}' if time else 'no time'}"
    width = max(map(len, rows))
    head = f"{out}: {manifest.items:,} items in {seconds:.1f} s"
    return "\n".join([head, *(f"  {name:<{width}} {text}" for name, text in rows.items())])


if __name__ == "__main__":
    cli.run(main)
