"""``--profile``: what it writes, of which steps, and that nothing is there without it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from ppr_dist.tracking.part_names import PARTS, REST, key
from ppr_dist.tracking.profiler import STEPS
from tests.commands import succeed
from tests.integration.conftest import TINY


def part_counts(run: Path, rank: int) -> dict[str, int]:
    """How often each part of a step stands in a rank's trace."""
    with gzip.open(run / "profile" / f"rank-{rank}.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert len([e for e in events if e.get("cat") == "user_annotation" and "ProfilerStep" in e["name"]]) == STEPS
    named = [e["name"].removeprefix("part: ") for e in events if e.get("cat") == "user_annotation"]
    return {part: named.count(part) for part in PARTS}


@pytest.mark.parametrize("epochs", [5, 2], ids=["in the middle", "fewer steps than usual"])
def test_some_steady_steps_of_each_rank_are_traced(epochs: int, catalogue: Path, tmp_path: Path) -> None:
    run, flags = tmp_path / "run", ("--train.epochs", epochs, "--train.log_every", 1, "--logging.parts_every", 1)
    done = succeed("pretrain", "--data", catalogue, "--run-dir", run, *TINY, *flags, "--profile", world_size=2)
    assert f"profile: {run}/profile\n" in done.out[0]
    assert len(list((run / "profile").iterdir())) == 4
    for rank in (0, 1):
        counts = part_counts(run, rank)
        assert counts["loss"] == counts["dense forward"] == counts["dense update"] == STEPS
        operators = (run / "profile" / f"rank-{rank}-operators.txt").read_text()
        assert "aten::" in operators
        assert "Self CPU time total" in operators
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    sampled = [record["step"] for record in records if key(REST) in record]
    assert not {step for step in sampled if 11 <= step <= 17}  # while the profiler is on, nothing is timed
    assert bool(sampled) == (epochs == 5)


def test_of_too_few_steps_it_says_so(catalogue: Path, tmp_path: Path) -> None:
    flags = ("--train.max_steps", 2, "--profile")
    done = succeed("pretrain", "--data", catalogue, "--run-dir", tmp_path / "run", *TINY, *flags)
    assert "ppr_dist: warning: --profile: nothing to write of so few steps; it takes 3 at least" in done.lines
    assert not list((tmp_path / "run" / "profile").iterdir())


def test_without_it_there_is_no_profile(pretrained: Path) -> None:
    assert not (pretrained / "profile").exists()
