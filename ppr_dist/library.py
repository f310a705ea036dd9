"""The commands as functions, for scripts and notebooks.

>>> from ppr_dist.library import evaluate, pretrain
>>> pretrain(config="configs/demo/pretrain.yaml", data="data/shop", run_dir="runs/shop", train={"epochs": 5})
>>> rows = evaluate(run_dir="runs/shop", task=["next-item"])

Keyword arguments are the command's options (``python -m ppr_dist.pretrain --help``) and override those of ``config``, a
YAML file; a section is a dict, a list is a list, a flag is True. They go through the command's own parser: what is
unknown, missing or of the wrong type raises :class:`ppr_dist.errors.UserError` with the command's own line.

As one process, or under torchrun, where every rank calls the same functions in the same order. There hand the script's
main function to :func:`ppr_dist.cli.run`: where one rank fails, it ends all of them in one line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ppr_dist import convert as convert_command
from ppr_dist import encode_users as encode_users_command
from ppr_dist import evaluate as evaluate_command
from ppr_dist import prepare as prepare_command
from ppr_dist import pretrain as pretrain_command
from ppr_dist import recommend as recommend_command
from ppr_dist import tune as tune_command
from ppr_dist.data.readers.convert import Converted
from ppr_dist.errors import UserError


def convert(**options: Any) -> Converted:
    """Write the public data set ``raw``, of the kind ``from_`` ("ml-1m", …), to ``out`` as ``prepare`` reads it."""
    return convert_command.main(words(options))


def prepare(**options: Any) -> None:
    """Write the shards of a click log and profiles to the folder ``out``."""
    prepare_command.main(words(options))


def pretrain(**options: Any) -> None:
    """Pre-train on the warm users of ``data``; the run is the folder ``run_dir``."""
    pretrain_command.main(words(options))


def tune(**options: Any) -> None:
    """Adapt the pre-trained run ``init`` to the users of ``data`` by ``method``; the run is the folder ``run_dir``."""
    tune_command.main(words(options))


def evaluate(**options: Any) -> list[dict[str, Any]]:
    """Return a dict for each of ``task``: what the command prints as a line of JSON. The same on all ranks."""
    return evaluate_command.main(words(options))


def recommend(**options: Any) -> Path:
    """Return the Parquet data set ``out``, written: user_id, item_id, rank, score."""
    return recommend_command.main(words(options))


def encode_users(**options: Any) -> Path:
    """Return the Parquet data set ``out``, written: user_id, vector; as ``prepare`` takes them (``user_vectors``)."""
    return encode_users_command.main(words(options))


def words(options: dict[str, Any]) -> list[str]:
    """A command line of keyword arguments: the configuration file first, so that the others override it."""
    ordered = sorted(options.items(), key=lambda option: option[0] != "config")
    return [f"--{name}={_word(name, value)}" for name, value in ordered]


def _word(name: str, value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    try:
        return json.dumps(value, default=os.fspath, ensure_ascii=False)  # read as YAML, which has other escapes
    except TypeError as error:
        raise UserError(f"--{name}: no value of an option: {value!r} ({error})") from error
