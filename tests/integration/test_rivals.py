"""Rivals all the way: pre-trained, tuned, asked by real commands, on one rank and on two alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import succeed
from tests.integration.conftest import TINY

pytestmark = pytest.mark.exhaustive
RIVALS: dict[str, tuple[tuple[Any, ...], str]] = {
    "bert4rec": (("--model.backbone", "bert4rec", "--train.objectives", "full_softmax"), "head"),
    "bert4rec with prompts": (("--model.backbone", "bert4rec"), "ppr-light"),
    "cl4srec": (("--train.objectives", "softmax", "cl4srec"), "head"),
    "cl4srec alone": (("--train.objectives", "cl4srec"), "fine-tune"),
    "melu": ((), "melu"),
}


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_is_asked_alike_on_any_number_of_ranks(name: str, catalogue: Path, tmp_path: Path) -> None:
    flags, method = RIVALS[name]
    warm, cold = tmp_path / "warm", tmp_path / "cold"
    both = ("--split", "pretrain", "tune-train")
    succeed("pretrain", "--data", catalogue, "--run-dir", warm, *TINY, *both, *flags, world_size=2)
    local = ("--melu.local_lr", 0.5) if method == "melu" else ()
    succeed("tune", "--data", catalogue, "--init", warm, "--method", method, "--run-dir", cold, *TINY, *local)
    tasks = ("--task", "few-shot", "zero-shot", "joint", "--protocol", "full", "--progress", "false")
    said = []
    for world_size in (1, 2):
        done = succeed("evaluate", "--run-dir", cold, *tasks, world_size=world_size)
        rows = [json.loads(line) for line in done.out[0].splitlines() if line.startswith("{")]
        said.append([{k: v for k, v in row.items() if isinstance(v, float)} for row in rows])
        assert [row["task"] for row in rows] == ["few-shot", "zero-shot", "joint"]
        assert all(row["ndcg@50"] > 0 for row in rows)
    for one, two in zip(*said, strict=True):
        assert one == pytest.approx(two, abs=2e-3)  # float32 may order two items otherwise
