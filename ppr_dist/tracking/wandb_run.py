"""Weights & Biases beside metrics.jsonl. Training never waits long for it, and never ends because of it."""

from __future__ import annotations

import dataclasses
import os
import secrets
from pathlib import Path
from typing import Any

from ppr_dist.config import Config
from ppr_dist.errors import warn

WANDB_ID = "wandb-id"
"""File in a run's folder with its id at W&B: a resumed run goes on under the same one."""
SECONDS_TO_START = "20"
"""Before it counts as out of reach (wandb's own: 90)."""
SECONDS_TO_FINISH = 60
"""For what is still to be uploaded at the end (wandb's own: no limit)."""


class WandbRun:
    """One run at W&B; where that fails, one warning, and the run is logged offline or not at all."""

    def __init__(self, run: Path, config: Config, stage: str) -> None:
        self.folder, self.config, self.stage = run, config, stage
        # Without a key W&B would stop and ask; offline runs can be uploaded later by `wandb sync`.
        if "WANDB_MODE" not in os.environ and not (os.environ.get("WANDB_API_KEY") or _logged_in()):
            os.environ["WANDB_MODE"] = "offline"
        try:
            self.run = self._start()
        except Exception as error:  # no network, a server that is down, a wrong key, a wrong WANDB_MODE
            offline = f"this run is logged offline: `wandb sync {run}/wandb/offline-*` uploads it later"
            warn(f"W&B: {_reason(error)}; {offline}")
            os.environ["WANDB_MODE"] = "offline"
            self.run = self._guarded(lambda: self._start(again=True))

    def _start(self, *, again: bool = False) -> Any:
        import wandb

        if again:
            wandb.teardown()  # its service holds the id and the settings of the first attempt
        offline = os.environ.get("WANDB_MODE") == "offline"
        file = self.folder / WANDB_ID
        if not file.is_file():
            file.write_text(secrets.token_hex(4) + "\n")
        return wandb.init(
            project=self.config.logging.wandb_project,
            name=self.folder.name,
            id=file.read_text().strip(),
            mode="offline" if offline else None,
            resume=None if offline else "allow",
            job_type=self.stage,
            dir=str(self.folder),
            config=dataclasses.asdict(self.config),
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", SECONDS_TO_START)),
                finish_timeout=SECONDS_TO_FINISH,
            ),
        )

    def log(self, record: dict[str, Any], step: int) -> None:
        if self.run is not None and self._guarded(lambda: self.run.log(record, step=step) or True) is None:
            self.run = None

    def close(self) -> None:
        if self.run is not None:
            self._guarded(self.run.finish)

    def _guarded(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:
            warn(f"W&B: {_reason(error)}; going on without it, metrics.jsonl has it all")
            return None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _logged_in() -> bool:
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text()
