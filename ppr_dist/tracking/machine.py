"""What a run's machine is and holds: memory, a card's peak rate, and the few environment variables that may be told."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 80GB HBM3": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
}
"""Dense bfloat16 rate (V100: float16) by whole words of the card's name (NVIDIA's data sheets, FLOP/s)."""

VARIABLES = (
    *("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_JOB_NUM_NODES", "SLURM_NTASKS"),
    *("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"),
    *("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NCCL_SOCKET_IFNAME", "NCCL_IB_DISABLE", "NCCL_DEBUG"),
)
"""The environment variables that a run writes down; no other one is read for a log."""
PACKAGES = (
    "ppr_dist",
    "torch",
    "torchrec",
    "fbgemm-gpu",
    "fbgemm-gpu-cpu",
    "deepspeed",
    "numpy",
    "pyarrow",
    "webdataset",
)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and whitelisted variables, in plain data."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = device.type == "cuda"
    return {
        "versions": versions,
        "device": torch.cuda.get_device_name(device) if cuda else "CPU",
        "cuda": torch.version.cuda if cuda else None,
        "cores": os.cpu_count(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def peak_flops(device: torch.device) -> float | None:
    """The card's peak, FLOP/s; None on a CPU and for a card that is not listed."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((rate for name, rate in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", card)), None)


def resident() -> int:
    """Bytes of this process in memory now."""
    return memory_line("/proc/self/status", "VmRSS")


def peak_rss() -> int:
    """Most resident bytes of this process so far. Not getrusage: there a child starts with its parent's figure."""
    return memory_line("/proc/self/status", "VmHWM")


def memory_line(file: str, field: str) -> int:
    """Bytes of a line like ``VmRSS:  1024 kB``."""
    lines = Path(file).read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))
