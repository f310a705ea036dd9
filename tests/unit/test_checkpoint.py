"""What a checkpoint says of validation, and which checkpoints stay."""

from __future__ import annotations

import errno
import math
import os
import pickle
import shutil
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)

from ppr_dist.checkpoint import base_checkpoint, checksums, reader
from ppr_dist.checkpoint import checkpointer as checkpoint
from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Best, Position, checkpoint_of, checkpoints, chosen
from ppr_dist.data.stream.user_stream import StreamState
from ppr_dist.errors import UserError

STREAM = StreamState(fingerprint="f", split="pretrain", seed=0, batch=1)


def test_the_best_is_the_highest_the_earliest_of_equals_and_a_number() -> None:
    best = Best(metric="auc", value=0.5, step=10)
    assert best.then(0.5, 20) == Best(metric="auc", value=0.5, step=10, since=1)
    assert best.then(0.4, 20).then(0.6, 30) == Best(metric="auc", value=0.6, step=30, since=0)
    assert best.then(math.nan, 20).then(0.1, 30).since == 2
    worst = Best(metric="auc", value=math.nan, step=10)
    assert worst.then(math.nan, 20).since == 1
    assert worst.then(0.0, 20) == Best(metric="auc", value=0.0, step=20)


def test_what_another_rank_wrote_elsewhere_makes_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_text("tensors")
    with pytest.raises(UserError, match=r"__1_0\.distcp: another rank wrote it, and it is not here"):
        checksums.seal(tmp_path, {"__0_0.distcp": "0" * 64, "__1_0.distcp": "1" * 64}, None)


def save(run: Path, step: int, best: int | None = None, keep: int = 2, keep_every: int | None = None) -> None:
    """As :meth:`Checkpointer.save` does once the tensors are written."""
    folder = checkpoint_of(run, step)
    partial = folder.with_name("." + folder.name)
    partial.mkdir(parents=True)
    (partial / "__0_0.distcp").write_text("tensors")
    found = None if best is None else Best(metric="auc", value=0.5, step=best)
    position = Position(step=step, stream=STREAM, world_size=1, best=found)
    Checkpointer(run, keep, keep_every=keep_every)._complete(partial, folder, position, sums={})


def steps(run: Path) -> list[int]:
    return [int(p.name.removeprefix("step-")) for p in checkpoints(run)]


def test_the_latest_and_the_best_stay(tmp_path: Path) -> None:
    kept = []
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 2), (6, 6), (7, 6), (8, 6), (9, 6)):
        save(tmp_path, step, best)
        kept.append(steps(tmp_path))
        assert chosen(tmp_path).step == (best or step)
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [6, 7], [6, 7, 8], [6, 8, 9]]
    assert str(chosen(tmp_path)) == f"{tmp_path}: step 6 (best auc of validation, 0.5000)"


def test_every_so_many_steps_one_stays_for_good(tmp_path: Path) -> None:
    for step in range(1, 9):
        save(tmp_path, step, keep=1, keep_every=3)
    assert steps(tmp_path) == [3, 6, 8]


def test_what_a_tuned_run_stands_on_stays_until_its_mark_is_gone(tmp_path: Path) -> None:
    save(tmp_path, 1)
    base = base_checkpoint.identify(chosen(tmp_path))
    assert base is not None
    base_checkpoint.keep(base, tmp_path / "age")
    base_checkpoint.keep(base, tmp_path / "city")
    for step in (2, 3, 4):
        save(tmp_path, step, keep=1)
    assert steps(tmp_path) == [1, 4]
    assert base_checkpoint.find(base, tmp_path / "age").step == 1  # the same by its checksums
    mark = tmp_path / "checkpoints" / "step-00000001.kept-by"
    assert mark.read_text().splitlines() == [str(tmp_path / "age"), str(tmp_path / "city")]
    mark.unlink()
    save(tmp_path, 5, keep=1)
    assert steps(tmp_path) == [5]
    with pytest.raises(UserError, match="dropped while it was read"):
        base_checkpoint.keep(base, tmp_path / "late")


def test_where_no_mark_can_be_written_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    save(tmp_path, 1)
    base = base_checkpoint.identify(chosen(tmp_path))
    assert base is not None
    monkeypatch.setattr(Path, "open", refuse)
    base_checkpoint.keep(base, tmp_path / "age")
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(
        f"ppr_dist: warning: {tmp_path}/checkpoints/step-00000001.kept-by: Read-only file system: keep"
    )


def test_what_a_killed_run_left_is_deleted(tmp_path: Path) -> None:
    for name in (".step-00000003", ".step-00000001"):
        (tmp_path / "checkpoints" / name / "a").mkdir(parents=True)
    save(tmp_path, 2)
    Checkpointer(tmp_path, 1).sweep()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_disk_that_will_not_delete_ends_no_training_and_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def half(folder: Path, *_: Any, **__: Any) -> None:
        (folder / "__0_0.distcp").unlink(missing_ok=True)
        raise OSError(5, "Input/output error", str(folder / "position.json"))

    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", half)
        save(tmp_path, 2, keep=1)
    assert steps(tmp_path) == [2]
    assert capsys.readouterr().err.startswith(
        f"ppr_dist: warning: {tmp_path}/checkpoints/.step-00000001/position.json: Input/output error"
    )
    assert shutil.rmtree is not half
    save(tmp_path, 3, keep=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


class _AsPython3110(pickle.Pickler):
    """Python 3.11.0 to 3.11.3, Debian 12's among them, pickle a member of an enumeration as an attribute of it."""

    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


def test_a_table_of_contents_written_by_any_python_is_read(tmp_path: Path) -> None:
    tensor = torch.zeros(2)
    entry = TensorStorageMetadata(TensorProperties.create_from_tensor(tensor), tensor.size(), [])
    with (tmp_path / ".metadata").open("wb") as file:
        _AsPython3110(file).dump(Metadata(state_dict_metadata={"weight": entry}))
    assert b"getattr" in (tmp_path / ".metadata").read_bytes()
    assert reader.names(tmp_path) == {"weight"}


@pytest.mark.parametrize("of", [Metadata, _MEM_FORMAT_ENCODING])
def test_of_what_it_refers_to_no_attribute_is_fetched(of: type, tmp_path: Path) -> None:
    class Fetched:
        def __reduce__(self) -> Any:
            return getattr, (of, "__init__")

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Fetched()))
    with pytest.raises(UserError, match="not checkpoint data"):
        reader.names(tmp_path)
