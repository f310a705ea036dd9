"""Parts of a checkpoint loaded into a model that is not resumed: to score, or to tune from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ppr_dist.checkpoint.reader import load, names
from ppr_dist.errors import UserError
from ppr_dist.parallel.embeddings import ShardedEmbeddings

_DENSE = "dense.parameter."


def load_tables(embeddings: ShardedEmbeddings, checkpoint: Path, *, with_optimizer: bool, strict: bool = False) -> None:
    """Load the tables a model shares with ``checkpoint``; the others keep their values. A collective.

    ``with_optimizer``: their optimizer state too, so that a table goes on with steps of the size it had come to;
    ``strict``: raise :class:`UserError` naming a table that only one of the two has.
    """
    saved = names(checkpoint)
    if strict:
        there = {key.removeprefix("tables.") for key in saved if key.startswith("tables.")}
        _refuse_another_model(checkpoint, there, set(embeddings.state_dict()))
    state: dict[str, Any] = {"tables": {k: v for k, v in embeddings.state_dict().items() if f"tables.{k}" in saved}}
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


def load_dense(module: torch.nn.Module, checkpoint: Path) -> None:
    """Load all parameters by name into a module outside any engine. A collective.

    Raises :class:`UserError` naming a parameter that only one of the two has.
    """
    saved = {key.removeprefix(_DENSE) for key in names(checkpoint) if key.startswith(_DENSE)}
    state = {name: parameter.detach().float().cpu().clone() for name, parameter in module.named_parameters()}
    _refuse_another_model(checkpoint, saved, set(state))
    load({"dense": {f"parameter.{name}": value for name, value in state.items()}}, checkpoint)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(state[name])


def _refuse_another_model(checkpoint: Path, saved: set[str], asked: set[str]) -> None:
    if unlike := saved ^ asked:
        where = "only it has" if unlike & saved else "it has no"
        raise UserError(f"{checkpoint}: holds another model: {where} {min(unlike & saved or unlike)}; train again")
