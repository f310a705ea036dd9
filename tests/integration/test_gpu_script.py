"""The single-GPU test mode where there is no GPU."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_without_a_gpu_it_says_so_with_a_status_of_its_own(tmp_path: Path) -> None:
    if any((Path(folder) / "nvidia-smi").exists() for folder in os.environ["PATH"].split(":")):
        pytest.skip("there may be a GPU here")
    done = subprocess.run([ROOT / "launch/gpu.sh", tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "no NVIDIA GPU" in done.stderr
    assert not (tmp_path / "out").exists()
