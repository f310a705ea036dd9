"""What a result file says about where it was measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


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


def peak_rss() -> int:
    """Most resident bytes of this process so far. Not getrusage: there a child starts with its parent's figure."""
    return _memory("/proc/self/status", "VmHWM")


def resident() -> int:
    """Bytes of this process in memory now."""
    return _memory("/proc/self/status", "VmRSS")


def available_memory() -> int:
    """Bytes that processes can still take without swapping."""
    return _memory("/proc/meminfo", "MemAvailable")


def _memory(file: str, field: str) -> int:
    """Bytes of a line like ``VmRSS:  1024 kB``."""
    lines = Path(file).read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def reset_peak_rss() -> None:
    """Let :func:`peak_rss` count from here."""
    Path("/proc/self/clear_refs").write_text("5")
