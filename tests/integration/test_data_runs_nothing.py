"""Prepared data runs nothing: no path of it is taken for a command, and no file of it is unpickled.

webdataset's own opener runs what begins with ``pipe:``, and decodes members by their suffix, pickles too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.prepare.profiles import read_values
from ppr_dist.data.prepare.shard_writer import sha256
from ppr_dist.data.raw_ids import UserIds, item_ids
from ppr_dist.data.stream.item_shares import ItemShares
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.errors import UserError
from ppr_dist.runs import item_counts
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


# Pickles ------------------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it makes the file that it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def object_array(trap: bytes) -> bytes:
    """A .npy file of Python objects."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return file.getvalue() + trap


def extension_schema(schema: pa.Schema, trap: bytes) -> pa.Schema:
    """Every column of a type that pyarrow once unpickled as it met it (CVE-2023-47248)."""
    kind = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": trap}
    return pa.schema([field.with_metadata(kind) for field in schema], metadata={"pandas": trap})


def extension_stream(stream: bytes, trap: bytes) -> bytes:
    with pa.ipc.open_stream(stream) as reader:
        batch = reader.read_next_batch()
    sink = io.BytesIO()
    schema = extension_schema(batch.schema, trap)
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    return sink.getvalue()


def planted_shard(path: Path, change: Callable[[bytes], bytes], extra: dict[str, bytes]) -> None:
    """Rewrite a shard: its members changed, others beside each."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            key = name.removesuffix(".arrow")
            beside = {f"{key}.{suffix}": content for suffix, content in extra.items()}
            for each, body in {name: change(content), **beside}.items():
                entry = tarfile.TarInfo(each)
                entry.size = len(body)
                tar.addfile(entry, io.BytesIO(body))


def read_everything(data: Path) -> None:
    """All that training, evaluation and recommend read of a prepared folder; a refusal is one line."""
    readers: list[Callable[[], object]] = [
        lambda: item_ids(data),
        lambda: UserIds(data).take(np.arange(3)),
        lambda: item_counts(data, "train_count"),
        lambda: [ItemShares(data, counted, load_manifest(data).items) for counted in ("train", "tune")],
        lambda: read_values(duckdb.connect(), data),
        lambda: [
            list(users_in_order(data, load_manifest(data), split, rank=0, world_size=1, at_once=64)[1])
            for split in ("pretrain", "tune-train", "tune-test")
        ],
    ]
    for read in readers:
        with contextlib.suppress(UserError, pa.ArrowInvalid):
            read()


@pytest.mark.parametrize("form", [pytest.param("a pickle alone", marks=pytest.mark.exhaustive), "in the format"])
def test_no_file_of_the_data_is_unpickled(catalogue: Path, tmp_path: Path, form: str) -> None:
    for original in [path for path in catalogue.rglob("*") if path.is_file()]:
        data = tmp_path / original.name.replace(".", "-") / original.parent.name
        shutil.copytree(catalogue, data)
        file, trapped = data / original.relative_to(catalogue), data / "trap"
        trap = pickle.dumps(Trap(trapped))
        if form == "a pickle alone":
            file.write_bytes(trap)
        elif file.suffix == ".npy":
            file.write_bytes(object_array(trap))
        elif file.suffix == ".parquet":
            table = pq.read_table(file)
            pq.write_table(table.cast(extension_schema(table.schema, trap)), file)
        elif file.suffix == ".tar":
            beside = dict.fromkeys(("pickle", "pyd", "pth", "pkl"), trap)
            planted_shard(file, lambda content, trap=trap: extension_stream(content, trap), beside)  # type: ignore[misc]
            _state_anew(data, file)
        read_everything(data)
        assert not trapped.exists(), original
    # The trap works.
    pickle.loads(pickle.dumps(Trap(tmp_path / "trap")))
    assert (tmp_path / "trap").exists()


def _state_anew(data: Path, shard: Path) -> None:
    """The manifest as one who planted something would leave it."""
    manifest = load_manifest(data)
    name = shard.parent.name
    split = manifest.split(name)
    told = {"bytes": shard.stat().st_size, "sha256": sha256(shard)}
    shards = tuple(
        dataclasses.replace(each, **told) if each.path == f"{name}/{shard.name}" else each for each in split.shards
    )
    splits = {**manifest.splits, name: dataclasses.replace(split, shards=shards)}
    dataclasses.replace(manifest, splits=splits).sealed().save(data)
