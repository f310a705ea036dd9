"""What each way of tuning moves and what it leaves, read from the checkpoints of the real commands on two ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.commands import succeed
from tests.integration.conftest import TINY
from tests.oracle import tensors

ITEM = "tables.items.embeddings.item.weight"


def of(state: dict[str, np.ndarray], *parts: str) -> dict[str, np.ndarray]:
    return {name: values for name, values in state.items() if name.startswith(parts)}


@pytest.mark.parametrize("method", ["ppr-light", "ppr-full", "fine-tune"])
def test_what_learns(method: str, catalogue: Path, pretrained: Path, tmp_path: Path) -> None:
    flags = ("--data", catalogue, "--init", pretrained, "--method", method, *TINY)
    # The start: a first step of (almost) no length. lr must be above 0.
    still = ("--train.max_steps", 1, "--train.lr", 1e-30, "--tables.lr", 0.0)
    succeed("tune", *flags, "--run-dir", tmp_path / "start", *still, world_size=2)
    succeed("tune", *flags, "--run-dir", tmp_path / "run", "--train.max_steps", 4, world_size=2)
    before, start, after = (tensors(run) for run in (pretrained, tmp_path / "start", tmp_path / "run"))

    backbone = ("dense.parameter.backbone", "dense.parameter.position")
    carried = {**of(before, *backbone), ITEM: before[ITEM]}
    assert len(carried) > 10
    for name, values in carried.items():
        np.testing.assert_array_equal(start[name], values, err_msg=f"{name} did not start as pre-trained")
        moved = not np.array_equal(after[name], values)
        assert moved == (method != "ppr-light"), name

    new = {"ppr-light": ("prompt", "tower"), "ppr-full": ("prompt", "tower"), "fine-tune": ("tower",)}[method]
    for part in ("prompt", "tower"):
        dense, tables = of(after, f"dense.parameter.{part}."), of(after, f"tables.profiles.embeddings.{part}:")
        assert bool(dense) == bool(tables) == (part in new)
        for name, values in {**dense, **tables}.items():
            assert np.abs(values - start[name]).max() > 1e-5, f"{name} stood still"
    # Only what learns has moments.
    with_moments = {name.removeprefix("dense.exp_avg.") for name in of(after, "dense.exp_avg.")}
    assert bool({n for n in with_moments if n.startswith(("backbone", "position"))}) == (method != "ppr-light")
    assert np.isfinite(np.concatenate([v.ravel() for v in of(after, "dense", "tables.").values()])).all()
