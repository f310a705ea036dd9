"""How a training ends that ends badly: soon, on all ranks, in words that name the cause."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands import run_command
from tests.integration.conftest import TINY

FAULTS = {
    "user": (2, r"error \(rank 1\): 00003.tar: member 7: not valid"),
    "disk": (2, r"error \(rank 1\): \[Errno 28\] No space left on device: '/runs/shop/metrics.jsonl'"),
    "checkpoint": (2, r"error \(rank 1\): \[Errno 28\] No space left on device: '/runs/shop/metrics.jsonl'"),
    "memory": (2, r"out of memory \(rank 1\): .* you tried to allocate 4000000000000000 bytes.*"),
    "bug": (1, r"fault \(rank 1\): KeyError: 'momentum'"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_one_failing_rank_says_why_and_leaves_at_once(kind: str) -> None:
    """Also where destroy_process_group would wait for the others for ever, as under NCCL."""
    status, said = FAULTS[kind]
    done = run_command("tests.failing", kind, world_size=2)
    assert done.codes == [3, status], done
    assert re.fullmatch(r"ppr_dist: rank 0 ends: another rank is gone \(.*\)", done.err[0].strip()), done
    *before, line = done.err[1].splitlines()
    assert re.fullmatch(f"ppr_dist: {said}", line), done
    assert bool(before) == (kind == "bug")


# Weights & Biases ---------------------------------------------------------------------------------------------

NOBODY_LISTENS = {"WANDB_MODE": "online", "WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({**NOBODY_LISTENS, "WANDB_INIT_TIMEOUT": "3"}, "connection refused"),
        ({"WANDB_MODE": "offlin"}, "WANDB_MODE|Settings"),
    ],
    ids=["outage", "mode"],
)
def test_training_goes_on_without_wandb_after_one_warning(
    catalogue: Path, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    run = tmp_path / "run"
    train = ("pretrain", "--data", catalogue, "--run-dir", run, *TINY, "--logging.wandb", "true")
    done = run_command(*train, "--train.max_steps", 2, variables=variables)
    assert done.codes == [0], done
    warnings = [line for line in done.lines if "W&B" in line]
    assert len(warnings) == 1, done
    assert re.search(f"ppr_dist: warning: W&B: .*({said}).*; this run is logged offline", warnings[0])
    assert "Traceback" not in done.err[0]
    done = run_command(*train, "--train.max_steps", 3, "--resume", variables={"WANDB_MODE": "offline"})
    assert done.codes == [0], done
    both = list((run / "wandb").glob("offline-run-*"))
    assert len(both) == 2
    assert {folder.name.split("-")[-1] for folder in both} == {(run / "wandb-id").read_text().strip()}
