"""A cluster file is refused where the launch is not what it describes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppr_dist.errors import UserError
from ppr_dist.parallel.apply import check_launch
from ppr_dist.parallel.cluster import load_cluster

SHARDING = Path(__file__).resolve().parents[3] / "sharding"


def check(file: str, device: str, local: list[int]) -> None:
    check_launch(load_cluster(SHARDING / file), file, device, local)


@pytest.mark.parametrize(
    ("file", "device", "local"),
    [
        ("gpu-32.yaml", "cuda", [8] * 32),
        ("gpu-32.yaml", "cuda", [8] * 16),
        ("gpu-32.yaml", "cuda", [2] * 2),  # some of one machine's GPUs
        ("gpu-1.yaml", "cuda", [1]),
        ("cpu.yaml", "cpu", [3] * 3),
    ],
)
def test_what_fits(file: str, device: str, local: list[int]) -> None:
    check(file, device, local)


@pytest.mark.parametrize(
    ("file", "device", "local", "said"),
    [
        ("gpu-32.yaml", "cpu", [2, 2], "4 machine.* of 8 cuda .* this is 2 cpu rank.*, 2 per machine"),
        ("cpu.yaml", "cuda", [1], "1 machine.* of 2 cpu .* this is 1 cuda rank.*, 1 per machine"),
        ("gpu-32.yaml", "cuda", [4] * 16, "this is 16 cuda rank.*, 4 per machine"),
        ("gpu-32.yaml", "cuda", [8] * 8 + [4] * 4, "this is 12 cuda rank.*, 4/8 per machine"),
        ("gpu-8.yaml", "cuda", [8] * 16, "1 machine.* of 8 cuda .* this is 16 cuda"),
    ],
)
def test_what_does_not(file: str, device: str, local: list[int], said: str) -> None:
    with pytest.raises(UserError, match=f"{file} describes {said}" if said[0].isdigit() else said):
        check(file, device, local)
