"""``plan`` describes the tables that training makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ppr_dist import plan

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("method", [None, "ppr-light"])
def test_the_plan_is_that_of_training(
    method: str | None, catalogue: Path, pretrained: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tuned if method else pretrained
    words = [
        "--config",
        str(run / "config.yaml"),
        "--data",
        str(catalogue),
        "--cluster",
        str(ROOT / "sharding/cpu.yaml"),
    ]
    plan.main([*words, "--world-size", "1", "--json", *(["--method", method] if method else [])])
    said = json.loads(capsys.readouterr().out)
    made = json.loads((run / "plan.json").read_text())
    assert said["tables"] == made["tables"]
    assert len(said["tables"]) == (7 if method else 1)  # three attributes, for prompt and profile encoder
    assert [rank["host"]["weights"] for rank in said["ranks"]] == [rank["host"]["weights"] for rank in made["ranks"]]
