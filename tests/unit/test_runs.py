"""A run's folder says what its model is, and it is resumed as nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ppr_dist import runs
from ppr_dist.config import Config, Model
from ppr_dist.errors import UserError
from ppr_dist.runs import Method, RunInfo

INFO = RunInfo(job="pretrain", method=None, data="d", fingerprint="f", catalogue={}, items=3, attributes={})


@pytest.mark.parametrize("positions", ["first", "last"])
def test_what_the_file_says_counts_and_resuming_otherwise_is_refused(positions: str, tmp_path: Path) -> None:
    run, other = tmp_path / "run", {"first": "last", "last": "first"}[positions]
    config, opposite = (Config(model=dataclasses.replace(Model(), positions=each)) for each in (positions, other))  # type: ignore[arg-type]
    runs.create(run, config, INFO, {}, resume=False)
    (run / "checkpoints" / "step-00000001").mkdir()
    assert runs.read(run) == (config, INFO)
    before = (run / "config.yaml").read_text()
    with pytest.raises(
        UserError, match=rf"has model.positions {positions}; resume it with --model\.positions {positions}"
    ):
        runs.check_new(run, opposite, INFO, resume=True)
    assert (run / "config.yaml").read_text() == before
    runs.check_new(run, config, INFO, resume=True)


def test_a_run_of_an_older_version_is_not_resumed(tmp_path: Path) -> None:
    runs.create(tmp_path, Config(), INFO, {}, resume=False)
    (tmp_path / "checkpoints" / "step-00000001").mkdir()
    body = json.loads((tmp_path / "run.json").read_text())
    del body["cold_users"]
    (tmp_path / "run.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="written by another version of ppr_dist; train again"):
        runs.check_new(tmp_path, Config(), INFO, resume=True)


@pytest.mark.parametrize(
    ("method", "model", "says"),
    [
        ("ppr-light", {}, "is a run of ppr-full; it cannot be resumed as ppr-light"),  # items learnt, and stand still
        ("fine-tune", {}, "is a run of ppr-full; it cannot be resumed as fine-tune"),
        (None, {}, "is a run of ppr-full; it cannot be resumed as tune"),
        ("ppr-full", {"heads": 4}, r"has model.heads 2; resume it with --model\.heads 2"),  # weights of the same shape
        ("ppr-full", {"max_length": 7}, r"has model.max_length 50; resume it with --model\.max_length 50"),
        ("ppr-full", {"dropout": 0.5}, ""),
        ("ppr-full", {}, ""),
    ],
)
def test_what_fits_by_its_shapes_alone_is_not_resumed(
    method: Method | None, model: dict[str, Any], says: str, tmp_path: Path
) -> None:
    info = dataclasses.replace(INFO, job="tune", method="ppr-full")
    runs.create(tmp_path / "run", Config(), info, {}, resume=False)
    (tmp_path / "run" / "checkpoints" / "step-00000001").mkdir()
    with pytest.raises(UserError, match=says) if says else contextlib.nullcontext():
        now = dataclasses.replace(info, method=method)
        runs.check_new(tmp_path / "run", Config(model=Model(**model)), now, resume=True)
