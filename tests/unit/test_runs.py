"""A run's folder says how its model counts positions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ppr_dist import runs
from ppr_dist.config import Config, Model
from ppr_dist.errors import UserError
from ppr_dist.runs import RunInfo

INFO = RunInfo(job="pretrain", method=None, data="d", fingerprint="f", catalogue={}, items=3, attributes={})


@pytest.mark.parametrize("positions", ["first", "last"])
def test_what_the_file_says_counts_and_resuming_otherwise_is_refused(positions: str, tmp_path: Path) -> None:
    run, other = tmp_path / "run", {"first": "last", "last": "first"}[positions]
    config, opposite = (Config(model=dataclasses.replace(Model(), positions=each)) for each in (positions, other))  # type: ignore[arg-type]
    runs.create(run, config, INFO, {}, resume=False)
    (run / "checkpoints" / "step-00000001").mkdir()
    assert runs.read(run) == (config, INFO)
    before = (run / "config.yaml").read_text()
    with pytest.raises(UserError, match=rf"from the {positions}; resume it with --model\.positions {positions}"):
        runs.check_new(run, opposite, resume=True)
    assert (run / "config.yaml").read_text() == before
    runs.check_new(run, config, resume=True)


def test_a_run_of_an_older_version_is_not_resumed(tmp_path: Path) -> None:
    runs.create(tmp_path, Config(), INFO, {}, resume=False)
    (tmp_path / "checkpoints" / "step-00000001").mkdir()
    body = json.loads((tmp_path / "run.json").read_text())
    del body["cold_users"]
    (tmp_path / "run.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="written by another version of ppr_dist; train again"):
        runs.check_new(tmp_path, Config(), resume=True)
