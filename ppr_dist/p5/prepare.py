"""``python -m ppr_dist.p5.prepare``: a prepared folder into sentences of tokens, to pre-train on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from ppr_dist import cli, options
from ppr_dist.data.remote import DataFolder
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    data: DataFolder
    """Folder that prepare wrote. Sentences are made of its warm users' clicks but their last two."""
    out: Path
    """Folder to write: tokens (a prepared folder), pretrain.yaml (options for pretrain), p5.json, item_codes.npy."""
    ids: Literal["random", "sequential", "collaborative"] = "sequential"
    """What items are called: digits of numbers by hash, or in the order of the first training click; or the clusters
    of items that the same users click."""
    code_values: int = 256
    """Values of one code; an item has as few codes as tell all items apart."""
    families: list[Literal["sequential", "direct"]] = dataclasses.field(default_factory=lambda: ["sequential"])
    """Sentences: the next item after a history, and an item for a user (without the history)."""
    user_tokens: bool = False
    """Give each user a token too (P5's whole-word user ids): as many rows more in the table."""
    history: int = 20
    """Most recent clicks that a sentence names."""
    seed: int = 0
    """Seed of the choice of templates, of numbers by hash, and of clusters."""
    overwrite: bool = False
    """Replace a folder that was written before."""

    def __post_init__(self) -> None:
        if self.code_values < 2 or self.history < 1:
            raise UserError("--code-values must be at least 2, and --history at least 1")
        if not self.families or len(set(self.families)) < len(self.families):
            raise UserError("--families: one or both of sequential and direct, each once")


def main(argv: list[str] | None = None) -> None:
    """Write the folder, and print what is in it and how to train on it."""
    (arguments,), _ = options.parse("ppr_dist.p5.prepare", argv, [Arguments])
    from ppr_dist.p5.token_log import write_tokens  # not before the options are read: --help should not wait for it

    description, tokens = write_tokens(arguments)
    sentences = tokens.split("tune-train")
    sizes = " × ".join(map(str, description.sizes))
    print(f"{arguments.out}: {sentences.users:,} sentences of {sentences.events:,} tokens")
    print(f"  vocabulary {tokens.items:,} tokens; an item is {len(description.sizes)} of them ({sizes} codes)")
    print(f"  python -m ppr_dist.pretrain --config {arguments.out}/pretrain.yaml --data {arguments.out}/tokens")


if __name__ == "__main__":
    cli.run(main)
