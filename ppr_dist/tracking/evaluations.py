"""What ``evaluate`` finds, told where the run was logged while it trained, beside evaluations.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppr_dist.config import Config
from ppr_dist.errors import warn
from ppr_dist.tracking.tensorboard_run import TensorBoardRun
from ppr_dist.tracking.wandb_run import WandbRun


def log_evaluations(run: Path, config: Config, stage: str, rows: list[dict[str, Any]], baseline: str | None) -> None:
    """Tell W&B (the run's summary) and TensorBoard (at the checkpoint's step) the metrics, where the run logs there.

    ``evaluation/TASK/PROTOCOL/METRIC``, of a baseline ``evaluation/TASK/PROTOCOL/BASELINE/METRIC``.
    """
    values: dict[str, float] = {}
    for row in rows:
        prefix = "/".join(filter(None, ("evaluation", row["task"], row["protocol"], baseline)))
        values |= {f"{prefix}/{name}": value for name, value in row.items() if isinstance(value, float)}
    if config.logging.wandb:
        wandb = WandbRun(run, config, stage)
        wandb.summarize(values)
        wandb.close()
    if config.logging.tensorboard:
        try:
            tensorboard = TensorBoardRun(run)
        except ImportError as error:
            warn(f"logging.tensorboard: {error}; evaluations.jsonl has it all")
            return
        tensorboard.log({"step": rows[0]["step"], **values})
        tensorboard.close()
