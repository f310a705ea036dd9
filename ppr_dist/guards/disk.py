"""Whether there is room for the checkpoints of a run, asked before it trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import torch.distributed as dist

from ppr_dist.checkpoint.position import checkpoints
from ppr_dist.config import Train
from ppr_dist.errors import UserError, warn
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.distributed import on_main


def check_room(run: Path, parallel: Parallel, train: Train, *, frozen: bool = True) -> None:
    """Raise :class:`UserError` where not one checkpoint fits on the disk; warn where not all fit that are kept.

    Not one: training would be lost, and it is refused, unless a failed checkpoint is to stop nothing
    (``train.on_failed_checkpoint``). Not all: there may be room by then. A collective.
    """
    one = checkpoint_bytes(parallel, frozen=frozen)
    on_main(lambda: _check(run, one, train))


def checkpoint_bytes(parallel: Parallel, *, frozen: bool = True) -> int:
    """Bytes of a checkpoint: tables and dense parameters, each with the state of its optimizer. A collective.

    ``frozen``: what is not trainable is in it too.
    """
    embeddings, mine = parallel.embeddings, 0
    items = frozen or embeddings.train_items
    for table, weights, _, _ in embeddings.local_shards():
        mine += weights.nbytes if items or table != "item" else 0
    for table, of_table in embeddings.optimizer_state_dict().items():
        for value in of_table.values() if items or not table.startswith("items.") else ():
            mine += sum(shard.tensor.nbytes for shard in getattr(value, "local_shards", list)())
    total = torch.tensor(mine)
    dist.all_reduce(total)
    for parameter in parallel.engine.module.parameters():
        # Float32, and two moments where it is trained; ZeRO 3 keeps its size elsewhere.
        size = 4 * getattr(parameter, "ds_numel", parameter.numel())
        total += size * (3 if parameter.requires_grad else int(frozen))
    return int(total)


def _check(run: Path, one: int, train: Train) -> None:
    place = run
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    # A new one is whole before an old one goes; the best of a validation stays beside the latest.
    most = train.keep_checkpoints + 1 + bool(train.eval_every_epochs)
    wanted = one * max(1, most - len(checkpoints(run)))
    if free < one:
        said = f"{place}: {free / 1e6:,.0f} MB are free, and a checkpoint takes {one / 1e6:,.0f} MB"
        if train.on_failed_checkpoint == "stop":
            raise UserError(f"{said}: make room, or choose another --run-dir")
        warn(said)
    elif free < wanted:
        warn(
            f"{place}: {free / 1e6:,.0f} MB are free, and the checkpoints that are kept will take "
            f"{wanted / 1e6:,.0f} MB more ({one / 1e6:,.0f} MB each): make room, or lower train.keep_checkpoints"
        )
