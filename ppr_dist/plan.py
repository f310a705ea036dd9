"""Does a catalogue fit on a cluster? Plans the tables, says bytes per rank, and tries what would help.

``python -m ppr_dist.plan --cluster sharding/gpu-32.yaml --items 1e9 --dim 128`` needs no GPU and no data, and takes
``--config`` and every option of training. Prints the plan and what a step sends and computes by part; ``--json``
prints one line of JSON instead, which says every shard too. Status: 0 it fits, 1 it does not, 2 bad input.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from ppr_dist import cli
from ppr_dist.data.remote import DataFolder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    cluster: Path | None = None
    """A file like sharding/gpu-32.yaml; by default tables.cluster."""
    items: float | None = None
    """Rows of the item table; 1e9 may be written."""
    attributes: dict[str, int] = dataclasses.field(default_factory=dict)
    """Values of each attribute, the unknown one included: --attributes.city 300."""
    item_data: dict[str, int] = dataclasses.field(default_factory=dict)
    """What is known of each item, for model.item_encoders: numbers of a vector, by any name (--item-data.text 128),
    codes of an item (--item-data.codes 4), words of a text (--item-data.tokens 16)."""
    label_spaces: dict[str, int] = dataclasses.field(default_factory=dict)
    """Labels of each label space that train.objectives labels predicts: --label-spaces.orders 5000; above
    labels.dense_up_to a table."""
    data: DataFolder | None = None
    """Folder that prepare wrote, in place of --items, --attributes, --item-data and --label-spaces."""
    method: str | None = None
    """How the model is tuned, which decides on its profile tables; null = pre-training, which has none."""
    dim: int | None = None
    """The same as --model.dim."""
    world_size: int | None = None
    """Ranks; by default the whole cluster."""
    history: float | None = None
    """Clicks of a user that a step trains on; by default the mean in --data, or model.max_length + 1."""
    json: bool = False
    """Print one line of JSON instead, with every shard of every table."""


def main(argv: list[str] | None = None) -> None:
    """Plan, print, and exit with 1 where the tables do not fit."""
    from ppr_dist.read_config import parse

    arguments, config = parse("ppr_dist.plan", argv, Arguments)
    if arguments.dim is not None:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dim=arguments.dim))
    # Imported once the options are read: TorchRec takes seconds, and --help does not need it.
    from ppr_dist.parallel.capacity_planning import report

    result, lines, fault = report(arguments, config)
    print(json.dumps(result) if arguments.json else "\n".join(lines), flush=True)
    if fault is not None:
        print(f"ppr_dist: does not fit: {fault}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
