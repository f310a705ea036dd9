"""A run's folder says what its model is, and it is resumed as nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from pathlib import Path

import pytest

from ppr_dist import run_checks, runs
from ppr_dist.config import Config, Model
from ppr_dist.errors import UserError
from ppr_dist.read_config import section
from ppr_dist.runs import RunInfo
from tests.settings import parts

INFO = RunInfo(stage="pretrain", method=None, data="d", fingerprint="f", catalogue={}, items=3, attributes={})


@pytest.mark.parametrize("positions", ["first", "last"])
def test_what_the_file_says_counts_and_resuming_otherwise_is_refused(positions: str, tmp_path: Path) -> None:
    run, other = tmp_path / "run", {"first": "last", "last": "first"}[positions]
    config, opposite = (Config(parts=parts(sasrec={"positions": each})) for each in (positions, other))
    runs.create(run, config, INFO, {}, resume=False)
    (run / "checkpoints" / "step-00000001").mkdir()
    read, info = runs.read(run)
    assert info == INFO
    assert dataclasses.replace(read, parts={}) == Config()
    assert section(read, "sasrec") == section(config, "sasrec")
    before = (run / "config.yaml").read_text()
    with pytest.raises(
        UserError, match=rf"has sasrec.positions {positions}; resume it with --sasrec\.positions {positions}"
    ):
        run_checks.check_new(run, opposite, INFO, resume=True)
    assert (run / "config.yaml").read_text() == before
    run_checks.check_new(run, config, INFO, resume=True)


def test_a_run_of_an_older_version_is_not_resumed(tmp_path: Path) -> None:
    runs.create(tmp_path, Config(), INFO, {}, resume=False)
    (tmp_path / "checkpoints" / "step-00000001").mkdir()
    body = json.loads((tmp_path / "run.json").read_text())
    body["job"] = body.pop("stage")
    (tmp_path / "run.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match="written by an earlier version of ppr_dist; train again"):
        run_checks.check_new(tmp_path, Config(), INFO, resume=True)


@pytest.mark.parametrize(
    ("method", "now", "says"),
    [
        ("ppr-light", Config(), "is a run of ppr-full; it cannot be resumed as ppr-light"),  # trained items, now frozen
        ("fine-tune", Config(), "is a run of ppr-full; it cannot be resumed as fine-tune"),
        (None, Config(), "is a run of ppr-full; it cannot be resumed as tune"),
        # Weights of the same shape.
        ("ppr-full", Config(parts=parts(sasrec={"heads": 4})), "sasrec.heads 2; resume it with --sasrec.heads 2"),
        ("ppr-full", Config(model=Model(max_length=7)), "model.max_length 50; resume it with --model.max_length 50"),
        ("ppr-full", Config(model=Model(dropout=0.5)), ""),
        ("ppr-full", Config(), ""),
    ],
)
def test_what_fits_by_its_shapes_alone_is_not_resumed(
    method: str | None, now: Config, says: str, tmp_path: Path
) -> None:
    info = dataclasses.replace(INFO, stage="tune", method="ppr-full")
    runs.create(tmp_path / "run", Config(), info, {}, resume=False)
    (tmp_path / "run" / "checkpoints" / "step-00000001").mkdir()
    with pytest.raises(UserError, match=re.escape(says)) if says else contextlib.nullcontext():
        run_checks.check_new(tmp_path / "run", now, dataclasses.replace(info, method=method), resume=True)
