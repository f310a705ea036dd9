"""A run's folder says how its model counts positions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from ppr_dist import runs
from ppr_dist.config import Config, Model
from ppr_dist.errors import UserError
from ppr_dist.runs import RunInfo

INFO = RunInfo(job="pretrain", method=None, data="d", fingerprint="f", catalogue={}, items=3, attributes={})


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A run with a checkpoint, made before there was a choice."""
    run = tmp_path / "run"
    runs.create(run, Config(model=Model(positions="last")), INFO, {}, resume=False)
    (run / "checkpoints" / "step-00000001").mkdir()
    body = yaml.safe_load((run / "config.yaml").read_text())
    del body["model"]["positions"]
    (run / "config.yaml").write_text(yaml.safe_dump(body))
    return run


def test_without_a_word_they_count_from_the_last(older: Path) -> None:
    config, info = runs.read(older)
    assert (config, info) == (Config(model=Model(positions="last")), INFO)


@pytest.mark.parametrize("positions", ["first", "last"])
def test_what_the_file_says_counts(positions: str, tmp_path: Path) -> None:
    model = dataclasses.replace(Model(), positions=positions)
    runs.create(tmp_path / "run", Config(model=model), INFO, {}, resume=False)
    assert runs.read(tmp_path / "run")[0].model.positions == positions


def test_resuming_otherwise_is_refused(older: Path) -> None:
    before = (older / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"counts positions from the last; resume it with --model\.positions last"):
        runs.check_new(older, Config(model=Model(positions="first")), resume=True)
    assert (older / "config.yaml").read_text() == before
    runs.create(older, Config(model=Model(positions="last")), INFO, {}, resume=True)
    assert runs.read(older)[0].model.positions == "last"
