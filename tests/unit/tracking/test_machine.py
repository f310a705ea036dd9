"""What is told of a machine."""

from __future__ import annotations

import pytest
import torch

from ppr_dist.tracking import machine

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("card", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("Another card", None),
    ],
)
def test_a_cards_peak_is_found_by_its_name(card: str, tflops: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: card)
    peak = machine.peak_flops(GPU)
    assert peak == (tflops and tflops * 1e12)
    assert machine.peak_flops(CPU) is None


def test_memory_is_this_processs() -> None:
    before = machine.resident()
    held = torch.ones(25_000_000)  # 100 MB
    assert 80e6 < machine.resident() - before < 200e6
    assert machine.peak_rss() >= machine.resident() > held.nbytes
    del held


def test_the_environment_is_a_whitelist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    told = machine.environment(CPU)
    assert told["variables"]["SLURM_JOB_ID"] == "12"
    assert "secret" not in str(told)
    assert set(told["variables"]) <= set(machine.VARIABLES)
