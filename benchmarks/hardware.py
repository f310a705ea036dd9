"""What a result file says about where it was measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from ppr_dist.tracking.machine import memory_line


def hardware() -> dict[str, str | int | float]:
    """CPU, memory, GPU, versions and date, for a benchmark's JSON line."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
    }


def heading(title: str, result: dict[str, Any], note: str = "") -> list[str]:
    """How a result file begins: title, machine and date of :func:`hardware`, and what else was set."""
    gpu = f"{result['gpu']}, " if result["gpu"] != "none" else ""
    machine = f"{gpu}{result['cpu']}, {result['cores']} cores, {result['memory_gib']} GiB, torch {result['torch']}"
    return [f"# {title}", "", f"{machine}, {result['date']}, commit {result['commit']}. {note}".rstrip(), ""]


def available_memory() -> int:
    """Bytes that processes can still take without swapping."""
    return memory_line("/proc/meminfo", "MemAvailable")


def reset_peak_rss() -> None:
    """Let :func:`~ppr_dist.tracking.machine.peak_rss` count from here."""
    Path("/proc/self/clear_refs").write_text("5")
