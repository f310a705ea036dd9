"""No path of prepared data is ever taken for a command: webdataset's own opener runs what begins with ``pipe:``."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ppr_dist.data.manifest import load_manifest
from ppr_dist.errors import UserError
from tests.commands import run_command, succeed
from tests.integration.conftest import TINY

FOLDER = "pipe:touch trap; cat shop"
"""A folder of this name is a folder. Opened as a URL it would make the file ``trap``."""


@pytest.fixture
def data(catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared data under that name, relative to where commands run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(catalogue, FOLDER)
    return Path(FOLDER)


@pytest.mark.parametrize(
    "bad",
    [
        "pipe:touch trap; cat x.tar",
        "tune-test/../x.tar",
        "../tune-test/00000.tar",
        "{cwd}/x.tar",
        "x.tar",
        "tune-train/00000.tar",
        "tune-test/00000.tar\n",
    ],
)
def test_a_manifest_names_shards_of_its_split_alone(catalogue: Path, tmp_path: Path, bad: str) -> None:
    shutil.copytree(catalogue, tmp_path / "data")
    manifest = load_manifest(tmp_path / "data")
    split = manifest.split("tune-test")
    shards = (dataclasses.replace(split.shards[0], path=bad.format(cwd=tmp_path)), *split.shards[1:])
    splits = {**manifest.splits, "tune-test": dataclasses.replace(split, shards=shards)}
    dataclasses.replace(manifest, splits=splits).sealed().save(tmp_path / "data")
    with pytest.raises(
        UserError, match=r"manifest\.json: split 'tune-test': shard path .* is not tune-test/NNNNN\.tar"
    ):
        load_manifest(tmp_path / "data")


def test_a_split_has_a_plain_name(catalogue: Path, tmp_path: Path) -> None:
    shutil.copytree(catalogue, tmp_path / "data")
    manifest = load_manifest(tmp_path / "data")
    name = "pipe:touch trap; cat "
    split = manifest.split("tune-test")
    shards = tuple(dataclasses.replace(s, path=f"{name}/{s.path.split('/')[1]}") for s in split.shards)
    moved = {**manifest.splits, name: dataclasses.replace(split, shards=shards)}
    dataclasses.replace(manifest, splits=moved).sealed().save(tmp_path / "data")
    with pytest.raises(UserError, match=r"is not .*/NNNNN"):
        load_manifest(tmp_path / "data")


def named_by_flag(data: Path, run: Path) -> list[object]:
    return ["evaluate", "--run-dir", run, "--data", data, "--task", "few-shot", "--progress", "false"]


def named_by_run_json(data: Path, run: Path) -> list[object]:
    body = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**body, "data": str(data)}))
    return ["evaluate", "--run-dir", run, "--task", "few-shot", "--progress", "false"]


def named_by_config(data: Path, run: Path) -> list[object]:
    Path("c.yaml").write_text(yaml.safe_dump({"data": str(data)}))
    return ["pretrain", "--config", "c.yaml", "--run-dir", "out", *TINY, "--train.max_steps", 1]


@pytest.mark.parametrize("command", [named_by_flag, named_by_run_json, named_by_config])
def test_a_folder_of_any_name_is_read_and_nothing_is_run(
    data: Path, tuned: Path, command: Callable[[Path, Path], list[object]]
) -> None:
    shutil.copytree(tuned, "run")
    succeed(*command(data, Path("run")))  # type: ignore[arg-type]
    assert not Path("trap").exists()


def test_a_shard_path_that_is_a_command_is_refused(data: Path, tuned: Path) -> None:
    # The file lies where the manifest says, so that size and checksum are right: seen from within the folder.
    manifest, name = load_manifest(data), "pipe:touch trap; cat x.tar"
    split = manifest.split("tune-test")
    shutil.copy(data / split.shards[0].path, data / name)
    shards = (dataclasses.replace(split.shards[0], path=name), *split.shards[1:])
    splits = {**manifest.splits, "tune-test": dataclasses.replace(split, shards=shards)}
    dataclasses.replace(manifest, splits=splits).sealed().save(data)
    os.chdir(data)
    done = run_command(*named_by_flag(Path("."), tuned))  # type: ignore[arg-type]
    assert not Path("trap").exists()
    assert set(done.codes) == {2}
    assert f"shard path {name!r} is not tune-test/NNNNN.tar" in "".join(done.err)
