"""Does a catalogue fit on a cluster? Plans the tables, says bytes per rank, and tries what would help.

``python -m ppr_dist.plan --cluster sharding/gpu-32.yaml --items 1e9 --dim 128`` needs no GPU and no data, and takes
``--config`` and every option of training. Prints the plan and what a step sends and computes by part; ``--json``
prints one line of JSON instead, which says every shard too. Status: 0 it fits, 1 it does not, 2 bad input.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Any

from ppr_dist import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    cluster: Path | None = None
    """A file like sharding/gpu-32.yaml; by default tables.cluster."""
    items: float | None = None
    """Rows of the item table; 1e9 may be written."""
    attributes: dict[str, int] = dataclasses.field(default_factory=dict)
    """Values of each attribute, the unknown one included: --attributes.city 300."""
    data: Path | None = None
    """Folder that prepare wrote, in place of --items and --attributes."""
    method: str | None = None
    """How the model is tuned, which decides on its profile tables; none: pre-training, which has none."""
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
    # Imported once the options are read: torch, TorchRec and DeepSpeed take seconds, and --help none of them.
    from ppr_dist.parallel.question import changes, question_of, show, show_step, step_by_part

    logging.getLogger("torchrec").setLevel(logging.ERROR)
    question = question_of(arguments, config)
    said, fault = question.ask()
    report: dict[str, Any] = {"fits": fault is None, "items": question.sizes.items, "dim": question.sizes.dim}
    step = step_by_part(arguments, config, question)
    lines = [*show(question, said), *show_step(step, question.world_size, config.train.global_batch_size)]
    if fault is None:
        lines.append("It fits.")
    else:
        tried = []
        for name, change in changes(question):
            outcome, short = change.ask()
            tried.append({"change": name, "fits": short is None, "largest": outcome["largest"]})
        cheapest = next((t["change"] for t in tried if t["fits"]), None)
        report |= {"why": str(fault), "memory": fault.memory, "short_bytes": fault.short_bytes}
        report |= {"changes": tried, "cheapest": cheapest}
        for t in tried:
            use = ", ".join(f"{t['largest'][m]:,} bytes {m}" for m in ("hbm", "host") if t["largest"][m])
            lines.append(f"{'fits        ' if t['fits'] else 'does not fit'}  {t['change']}: {use} on the fullest rank")
        lines.append(f"cheapest change that makes it fit: {cheapest or 'none of those tried'}")
    print(json.dumps({**report, **said, "step": step}) if arguments.json else "\n".join(lines), flush=True)
    if fault is not None:
        print(f"ppr_dist: does not fit: {fault}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
