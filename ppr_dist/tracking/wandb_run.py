"""Weights & Biases beside metrics.jsonl. Training never waits long for it, and never ends because of it."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import yaml

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
            group=self.config.logging.experiment,
            name=self.folder.name,
            id=file.read_text().strip(),
            mode="offline" if offline else None,
            resume=None if offline else "allow",
            job_type=self.stage,
            dir=str(self.folder),
            config=described(self.folder),
            settings=wandb.Settings(
                silent=True,
                console="off",
                # Left to itself it also sends the command line, the address of the git remote with what stands
                # in it, user and host, all of SLURM_*, and every package there is.
                disable_git=True,
                disable_code=True,
                host="not-told",
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", SECONDS_TO_START)),
                finish_timeout=SECONDS_TO_FINISH,
            ),
        )

    def log(self, record: dict[str, Any]) -> None:
        values = {name: value for name, value in record.items() if name != "step"}
        if self.run is not None and self._guarded(lambda: self.run.log(values, step=record["step"]) or True) is None:
            self.run = None

    def summarize(self, values: dict[str, Any]) -> None:
        """Figures of the run as a whole, which belong to no step of its training."""
        if self.run is not None:
            self._guarded(lambda: self.run.summary.update(values))

    def close(self) -> None:
        if self.run is not None:
            self._guarded(self.run.finish)

    def _guarded(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:
            warn(f"W&B: {_reason(error)}; going on without it, metrics.jsonl has it all")
            return None


def described(run: Path) -> dict[str, Any]:
    """What the run's folder says: the resolved configuration by section, data, plan, environment."""
    config = run / "config.yaml"
    sections: dict[str, Any] = yaml.safe_load(config.read_text()) if config.is_file() else {}
    for name in ("run", "plan", "environment"):
        file = run / f"{name}.json"
        if file.is_file():
            sections[name] = json.loads(file.read_text())
    sections.get("plan", {}).pop("ranks", None)  # bytes of every rank: many, and in plan.json
    return sections


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _logged_in() -> bool:
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text()
