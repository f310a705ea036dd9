"""Parts of a checkpoint loaded into a model that is not resumed: to score, or to tune from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppr_dist.checkpoint.reader import load, names
from ppr_dist.errors import UserError
from ppr_dist.parallel.embeddings import ShardedEmbeddings

_DENSE, _BUFFER = "dense.parameter.", "dense.buffer."


def load_tables(
    embeddings: ShardedEmbeddings,
    checkpoint: Path,
    *,
    with_optimizer: bool,
    strict: bool = False,
    items: bool = True,
) -> None:
    """Load the tables a model shares with ``checkpoint``; the others keep their values. A collective.

    ``with_optimizer``: their optimizer state too, so that a table goes on with steps of the size it had come to;
    ``strict``: raise :class:`UserError` naming a table that only one of the two has; ``items``: whether the item table
    is to be there.
    """
    saved = names(checkpoint)
    if strict:
        there = {key.removeprefix("tables.") for key in saved if key.startswith("tables.")}
        asked = {key for key in embeddings.state_dict() if items or not key.startswith("items.")}
        _refuse_another_model(checkpoint, there, asked)
    state: dict[str, Any] = {"tables": {k: v for k, v in embeddings.state_dict().items() if f"tables.{k}" in saved}}
    if not state["tables"]:
        return
    if with_optimizer:
        prefixes = {key.removeprefix("tables_optimizer.") for key in saved if key.startswith("tables_optimizer.")}
        state["tables_optimizer"] = {
            table: moments
            for table, moments in embeddings.optimizer_state_dict().items()
            if all(f"{table}.{name}" in prefixes for name in moments)
        }
        # A collection has one count: new tables beside old ones begin at 0 with them.
        new = {key.split(".")[0] for key in embeddings.state_dict() if f"tables.{key}" not in saved}
        steps = {name: step for name, step in embeddings.optimizer_steps().items() if name not in new}
        state["tables_steps"] = steps
    load(state, checkpoint)
    if with_optimizer:
        embeddings.set_optimizer_steps(state["tables_steps"])


def load_dense(module: torch.nn.Module, checkpoint: Path, only: set[str] | None = None) -> None:
    """Load all parameters by name, or ``only`` these, and all buffers into a module outside any engine. A collective.

    Raises :class:`UserError` naming a parameter that only one of the two has.
    """
    asked: dict[str, Tensor] = {f"parameter.{n}": p for n, p in module.named_parameters() if only is None or n in only}
    asked |= {f"buffer.{name}": buffer for name, buffer in module.named_buffers()}
    saved = {key.removeprefix("dense.") for key in names(checkpoint) if key.startswith((_DENSE, _BUFFER))}
    _refuse_another_model(checkpoint, *({name.split(".", 1)[1] for name in each} for each in (saved, set(asked))))
    state = {n: (x.detach().float() if x.is_floating_point() else x).cpu().clone() for n, x in asked.items()}
    load({"dense": state}, checkpoint)
    with torch.no_grad():
        for name, tensor in asked.items():
            tensor.copy_(state[name])


def _refuse_another_model(checkpoint: Path, saved: set[str], asked: set[str]) -> None:
    if unlike := saved ^ asked:
        where = "only it has" if unlike & saved else "it has no"
        raise UserError(f"{checkpoint}: holds another model: {where} {min(unlike & saved or unlike)}; train again")
