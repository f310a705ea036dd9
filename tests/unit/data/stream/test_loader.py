"""Loader: the same batches from this process or from workers, on any number of ranks, from any step."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import tests.ranks  # noqa: F401  (its warm server makes loader workers cheap)
from ppr_dist import preemption
from ppr_dist.batch import Batch
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.loader import Loader
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.errors import UserError
from tests.settings import collator, objectives
from tests.shards import random_users, write_data

COUNT, ITEMS = 130, 90


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("loader") / "data"
    return folder, write_data(folder, {"pretrain": random_users(COUNT, ITEMS, times=True)}, items=ITEMS, per_shard=9)


def loader(data: tuple[Path, Manifest], rank: int, world_size: int, workers: int) -> Loader:
    stream = UserStream(*data, "pretrain", batch=32, rank=rank, world_size=world_size, seed=1, shuffle_shards=3)
    chosen = objectives(ITEMS, softmax={"uniform_negatives": 11, "in_batch_per_user": 2}, contrastive={}, bpr={})
    made = collator(chosen, ITEMS, max_length=6, hold_out=2, seed=1, rank=rank, world_size=world_size)
    return Loader(stream, made, workers)


def assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, tuple):
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        assert_equal(tuple(a.values()), tuple(b.values()))
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    else:
        assert a == b


def assert_same_batches(a: list[tuple[int, Batch]], b: list[tuple[int, Batch]]) -> None:
    assert [step for step, _ in a] == [step for step, _ in b]
    for (_, x), (_, y) in zip(a, b, strict=True):
        assert x.drawn.keys() == {"softmax", "contrastive", "bpr"}
        assert x.history.times is not None
        assert_equal(x, y)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_workers_and_ranks_see_one_stream(data: tuple[Path, Manifest], world_size: int) -> None:
    one = list(loader(data, 0, 1, 0).epoch(1))
    seen: list[int] = []
    by_rank = []
    for rank in range(world_size):
        plain = list(loader(data, rank, world_size, 0).epoch(1))
        if rank == world_size - 1:
            with_workers = loader(data, rank, world_size, 2)
            assert_same_batches(list(with_workers.epoch(1)), plain)
            assert_same_batches(list(with_workers.epoch(1, first_step=3)), plain[3:])
        assert [step for step, _ in plain] == list(range(len(one)))
        by_rank.append(plain)
    for step, (_, whole) in enumerate(one):
        users = [user for plain in by_rank for user in plain[step][1].users.tolist()]
        assert sorted(users) == sorted(whole.users.tolist())
        batches = [plain[step][1] for plain in by_rank]
        assert sum(len(batch.targets) for batch in batches) == len(whole.targets)
        assert len({batch.drawn["softmax"]["candidates"].shape for batch in batches}) == 1
        seen += users
    assert sorted(seen) == list(range(COUNT))


def test_workers_live_through_epochs_also_after_one_was_left_midway(data: tuple[Path, Manifest]) -> None:
    before = set(multiprocessing.active_children())
    source, plain = loader(data, 0, 1, 2), loader(data, 0, 1, 0)
    left = source.epoch(0)
    assert_same_batches([next(left), next(left)], list(plain.epoch(0))[:2])
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for epoch, first_step in ((1, 0), (2, 0), (3, 4), (0, 1)):
        found = list(source.epoch(epoch, first_step))
        assert_same_batches(found, list(plain.epoch(epoch, first_step)))
        assert set(multiprocessing.active_children()) - before == workers
    del left, source
    gc.collect()
    assert set(multiprocessing.active_children()) == before


class _Imports:
    """In place of a collator: names what a worker has imported since it got this."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, before=set(sys.modules))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.collator(*args, **kwargs)
        return sorted(set(sys.modules) - self.before)  # type: ignore[attr-defined]


def test_workers_import_nothing_that_their_server_has_not(data: tuple[Path, Manifest]) -> None:
    # The server of these tests has imported loader.PRELOAD, and besides what only multirank tests need.
    source = loader(data, 0, 1, 1)
    source = dataclasses.replace(source, collator=_Imports(source.collator))  # type: ignore[arg-type]
    for epoch in (0, 1):
        _, names = next(source.epoch(epoch))
        assert len(names) < 10, names  # pandas alone is some 300


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_vanishes_is_one_error_with_its_rank(tmp_path: Path, workers: int) -> None:
    manifest = write_data(tmp_path / "d", {"pretrain": random_users(40, ITEMS)}, items=ITEMS, per_shard=20)
    source = loader((tmp_path / "d", manifest), 1, 2, workers)
    (tmp_path / "d" / "pretrain" / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"00001\.tar") as error:
        list(source.epoch(0))
    assert error.value.rank == 1  # type: ignore[attr-defined]


def test_a_batch_travels_by_value(data: tuple[Path, Manifest]) -> None:
    step, batch = next(loader(data, 0, 1, 0).epoch(0))
    assert_same_batches([(step, pickle.loads(pickle.dumps(batch)))], [(step, batch)])


def go_on_signalled(folder: str) -> None:
    """In a process of its own, where the loader starts its workers' server: batches after all of them had signals."""
    batches = loader((Path(folder), load_manifest(Path(folder))), rank=0, world_size=1, workers=1)
    rest = batches.epoch(0)
    next(rest)
    for child in psutil.Process().children(recursive=True):
        for number in preemption.SIGNALS:
            child.send_signal(number)
    time.sleep(1)
    print([step for step, _ in rest], [step for step, _ in batches.epoch(1)], flush=True)
    os._exit(0)


@pytest.mark.exhaustive
def test_workers_go_on_until_their_rank_has_saved(data: tuple[Path, Manifest]) -> None:
    """Slurm signals every process of a job."""
    words = f"from tests.unit.data.stream.test_loader import go_on_signalled; go_on_signalled({str(data[0])!r})"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[1, 2, 3, 4] [0, 1, 2, 3, 4]\n", done
