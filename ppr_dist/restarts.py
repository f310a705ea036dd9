"""Restarts by torchrun (``--max-restarts``): all ranks anew, by the same launcher, with the same command line."""

from __future__ import annotations

import os
from pathlib import Path

import torch.distributed as dist

from ppr_dist.errors import warn

_BEGUN = "ppr_dist-trains"


def _launchers_folder() -> Path | None:
    """What all starts by one torchrun have in common, and no other torchrun has: where it keeps the ranks' reports."""
    report = os.environ.get("TORCHELASTIC_ERROR_FILE") if "TORCHELASTIC_RUN_ID" in os.environ else None
    return Path(report).parents[2] if report else None  # FOLDER/attempt_N/RANK/error.json


def note_begun(run: Path) -> None:
    """Remember, for later starts by this launcher, that the run is trained by it."""
    if (folder := _launchers_folder()) and os.environ.get("LOCAL_RANK") == "0":
        with (folder / _BEGUN).open("a") as file:
            file.write(f"{run.resolve()}\n")


def goes_on(run: Path) -> bool:
    """Whether an earlier start by this launcher trained ``run``, so that this start is to go on with it. A collective.

    A restart alone does not say so: torchrun also restarts what was refused because the folder holds another run.
    Ranks of a launcher that has joined since follow the others. A launcher that keeps no folder is believed.
    """
    folder = _launchers_folder()
    try:
        begun = str(run.resolve()) in (folder / _BEGUN).read_text().splitlines() if folder else _restarted()
    except FileNotFoundError:
        begun = False
    said = [False] * dist.get_world_size()
    dist.all_gather_object(said, begun)
    return any(said)


def _restarted() -> bool:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def warn_of_stale_addresses() -> None:
    """Say, on rank 0 of a restart, what makes torch's restarts fail: before the ranks meet, as they fail there.

    Ranks that meet in their launcher's store find there, from the second restart on, addresses of ranks that have gone
    (torch 2.13). So do those of the static rendezvous whatever the variable.
    """
    several = os.environ.get("RANK") == "0" and os.environ.get("WORLD_SIZE") != "1"
    if _restarted() and several and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "False":
        cure = "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, and --standalone or --rdzv-backend c10d"
        warn(f"restarted by torchrun, where from the second restart on ranks may not find one another: {cure}")
