"""TensorBoard beside metrics.jsonl, written by its own library: ``tensorboard --logdir RUN/tensorboard``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ppr_dist.errors import UserError


def check_installed() -> None:
    """Raise :class:`UserError` where TensorBoard's library is not there."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("logging.tensorboard: the package is not installed: pip install tensorboard")


class TensorBoardRun:
    """Event files in ``RUN/tensorboard``; a resumed run goes on in the same folder."""

    def __init__(self, run: Path, first_step: int | None = None) -> None:
        """``first_step``: where training begins; what was written beyond it is not shown."""
        from torch.utils.tensorboard import SummaryWriter

        purge = None if first_step is None else first_step + 1
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge)
        config = run / "config.yaml"
        if first_step is not None and config.is_file():
            self.writer.add_text("config", f"```\n{config.read_text()}\n```", first_step)

    def log(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                self.writer.add_scalar(name, value, record["step"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
