"""Training and evaluation on data under an address: what they come to is what they come to on the folder."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from ppr_dist.errors import UserError
from tests.commands import run_command
from tests.integration.conftest import TINY
from tests.object_store import serving


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_training_and_evaluation_on_two_ranks(catalogue: Path, tmp_path: Path) -> None:
    flags = (*TINY, "--train.max_steps", 3, "--train.log_every", 1, "--logging.progress", "false")
    losses, lines = [], []
    variables = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with serving(catalogue, breaks=1) as store:
        for run, data in (("far", store.http), ("near", catalogue)):
            options = ("--data", data, "--run-dir", tmp_path / run, *flags)
            done = run_command("pretrain", *options, world_size=2, timeout=120, variables=variables)
            assert done.codes == [0, 0], done
            records = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
            losses.append([record["loss"] for record in records if "loss" in record])
            task = ("--task", "next-item", "--run-dir", tmp_path / run, "--progress", "false")
            done = run_command("evaluate", *task, timeout=120, variables=variables)
            assert done.codes == [0], done
            (line,) = [json.loads(line) for line in done.out[0].splitlines() if line.startswith("{")]
            lines.append({key: value for key, value in line.items() if isinstance(value, float)})
        assert json.loads((tmp_path / "far" / "run.json").read_text())["data"] == store.http
        assert store.whole["train_share.npy"] == 1  # for both ranks and both commands
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]
    assert lines[0]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("prepare", ("--interactions", "log.parquet", "--out", "s3://bucket/data")),
        ("recommend", ("--run-dir", "run", "--users", "users.csv", "--out", "s3://bucket/data")),
        ("evaluate", ("--run-dir", "run", "--task", "joint", "--predictions", "s3://bucket/data")),
        ("report", ("--html", "out.html", "--runs", "run", "s3://bucket/data")),
        ("tune", ("--data", "d", "--init", "s3://bucket/data", "--method", "ppr-light", "--run-dir", "run")),
        ("verify", ("--run-dir", "s3://bucket/data")),
        ("plan", ("--data", "d", "--cluster", "s3://bucket/data")),
    ],
)
def test_an_address_is_no_path(
    command: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="s3:/bucket/data: an address; only --data may be one"):
        importlib.import_module(f"ppr_dist.{command}").main(list(words))
    assert not any(tmp_path.iterdir())


def test_a_run_lies_on_a_file_system(catalogue: Path) -> None:
    done = run_command("pretrain", "--data", catalogue, "--run-dir", "s3://bucket/run", *TINY)
    assert done.codes == [2], done
    (line,) = done.lines
    assert line.startswith("ppr_dist: error: --run-dir s3:/bucket/run: an address; only --data may be one"), done


def test_a_wrong_address_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as store:
        done = run_command("pretrain", "--data", store.http, "--run-dir", tmp_path / "run", *TINY)
    assert done.codes == [2], done
    assert done.lines == [f"ppr_dist: error: {store.http}/manifest.json: nothing is there (HTTP 404)"]
