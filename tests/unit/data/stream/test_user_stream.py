"""The exact stream: every user once, the same global batches on any number of ranks, any place to go on from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ppr_dist.data.counter_random import permutation
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.prepare import shard_writer
from ppr_dist.data.stream.user_stream import UserStream, stratified_permutation, users_in_order
from ppr_dist.data.stream.users import Users
from ppr_dist.errors import UserError
from tests import shards
from tests.shards import clicks_of, random_users, times_of, write_data

COUNT, ITEMS = 250, 90
USERS = random_users(COUNT, ITEMS, first_index=1000, times=True)
LAYOUTS = {"many": 7, "one": COUNT}
"""Users per shard: 36 shards read in lanes, or a single one."""


@pytest.fixture(scope="module", params=LAYOUTS)
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("stream") / request.param
    return folder, write_data(folder, {"pretrain": USERS}, items=ITEMS, per_shard=LAYOUTS[request.param])


def stream(data: tuple[Path, Manifest], rank: int = 0, world_size: int = 1, **options: object) -> UserStream:
    settings: dict[str, object] = {"batch": 48, "seed": 1, "shuffle_shards": 4, **options}
    return UserStream(*data, "pretrain", rank=rank, world_size=world_size, **settings)  # type: ignore[arg-type]


def read(source: UserStream, epoch: int = 0, first: int = 0) -> list[tuple[int, int, Users]]:
    return list(source.batches(epoch, range(first, source.steps)))


def order(source: UserStream, epoch: int = 0) -> list[int]:
    return [user for _, _, users in read(source, epoch) for user in users.index.tolist()]


def test_the_layouts_exercise_one_lane_and_several(data: tuple[Path, Manifest]) -> None:
    assert stream(data).lanes == (3 if len(data[1].split("pretrain").shards) > 1 else 1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_out_the_batches_of_one_rank(data: tuple[Path, Manifest], world_size: int) -> None:
    one = read(stream(data), epoch=2)
    many = [read(stream(data, rank, world_size), epoch=2) for rank in range(world_size)]
    assert {len(steps) for steps in many} == {len(one)}
    for (step, total, whole), *parts in zip(one, *many, strict=True):
        assert all((part[0], part[1]) == (step, total) for part in parts)
        assert [user for part in parts for user in part[2].index.tolist()] == whole.index.tolist()
        assert len(whole) == total


@pytest.mark.parametrize("batch", [3, 16, 17, 33, 50, 64, 1000])
@pytest.mark.parametrize("world_size", [1, 3])
def test_each_user_once_per_epoch_and_no_batch_above_the_capacity(
    data: tuple[Path, Manifest], batch: int, world_size: int
) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        source = stream(data, rank, world_size, batch=batch)
        for _, total, users in read(source):
            assert total <= batch
            assert len(users) <= -(-source.batch // source.world_size)
            seen += users.index.tolist()
        # Lanes may cost a step where each rounds its share, no more.
        assert source.steps <= -(-COUNT // (batch - source.lanes + 1))
    assert sorted(seen) == USERS.index.tolist()


def test_users_keep_their_clicks_and_profile(data: tuple[Path, Manifest]) -> None:
    for _, _, users in read(stream(data, 1, 2)):
        for row, index in enumerate(users.index):
            assert clicks_of(users, row) == clicks_of(USERS, index - 1000)
            assert times_of(users, row) == times_of(USERS, index - 1000)
            np.testing.assert_array_equal(users.attributes[:, row], USERS.attributes[:, index - 1000])
        assert users.items.dtype == users.index.dtype == users.attributes.dtype == np.int64
        assert users.times is not None
        assert users.times.dtype == np.int64


@pytest.mark.parametrize("first", [1, 3, 5])
def test_from_any_step_it_goes_on_as_uninterrupted(data: tuple[Path, Manifest], first: int) -> None:
    whole = read(stream(data, 1, 2), epoch=1)
    tail = read(stream(data, 1, 2), epoch=1, first=first)
    assert len(tail) == len(whole) - first > 0
    for (step, total, users), (step2, total2, users2) in zip(whole[first:], tail, strict=True):
        assert (step, total) == (step2, total2)
        np.testing.assert_array_equal(users.index, users2.index)
        np.testing.assert_array_equal(users.items, users2.items)


def test_strides_of_workers_see_what_one_reader_sees(data: tuple[Path, Manifest]) -> None:
    source = stream(data)
    whole = {step: users.index.tolist() for step, _, users in read(source)}
    for worker in range(3):
        for step, _, users in source.batches(0, range(worker, source.steps, 3)):
            assert users.index.tolist() == whole.pop(step)
    assert not whole


def test_epochs_and_seeds_differ_and_repeat(data: tuple[Path, Manifest]) -> None:
    first = order(stream(data))
    assert first == order(stream(data))
    for other in (order(stream(data), epoch=1), order(stream(data, seed=2))):
        # Two independent orders agree in about one place.
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 10
        assert sorted(first) == sorted(other)


def test_shuffling_mixes(data: tuple[Path, Manifest]) -> None:
    position = np.array(order(stream(data))) - 1000
    neighbours = np.abs(np.diff(position)) == 1
    # 2 pairs of COUNT would be neighbours under a uniform order; within windows of 28 users about 1 in 14.
    assert neighbours.mean() < 0.12
    shards = len(data[1].split("pretrain").shards)
    if shards > 1:
        # 3 lanes with windows of 4 shards of 7 users: a batch of 48 draws on at least 3 · 4 shards.
        _, _, first = read(stream(data))[0]
        assert len(np.unique((first.index - 1000) // 7)) >= 9


def test_windows_are_permuted_each_in_its_own_way(data: tuple[Path, Manifest]) -> None:
    # Windows of one shard of 7 users in one lane: how each stands in the order read.
    position = np.array(order(stream(data, batch=15, shuffle_shards=1))) - 1000
    ways = {tuple(position[position // 7 == shard] % 7) for shard in range(COUNT // 7)}
    assert len(ways) > 0.9 * (COUNT // 7)


def test_without_shuffling_the_order_is_that_of_the_shards(data: tuple[Path, Manifest]) -> None:
    assert order(stream(data, shuffle=False)) == USERS.index.tolist()


def test_a_rank_without_users_still_steps(tmp_path: Path) -> None:
    manifest = write_data(tmp_path / "d", {"pretrain": random_users(4, ITEMS)}, items=ITEMS, per_shard=2)
    steps = [read(stream((tmp_path / "d", manifest), rank, 3, batch=3)) for rank in range(3)]
    assert [[len(users) for _, _, users in rank] for rank in steps] == [[0, 0], [1, 1], [1, 1]]
    assert steps[0][0][2].attributes.shape == (2, 0)
    assert steps[1][0][2].times is None  # as the data were written


def test_a_rank_without_users_has_no_times_of_data_that_has(tmp_path: Path) -> None:
    manifest = write_data(tmp_path / "d", {"pretrain": random_users(4, ITEMS, times=True)}, items=ITEMS, per_shard=2)
    (_, _, users), *_ = read(stream((tmp_path / "d", manifest), 0, 3, batch=3))
    assert users.times is not None
    assert (users.times.dtype, users.times.shape) == (np.int64, (0,))


def test_users_in_order_keep_their_times(data: tuple[Path, Manifest]) -> None:
    _, blocks = users_in_order(*data, "pretrain", rank=0, world_size=1, at_once=32)
    found = [times_of(users, row) for users in blocks for row in range(len(users))]
    assert found == [times_of(USERS, row) for row in range(COUNT)]


def test_refusals(data: tuple[Path, Manifest], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch of 2 users is smaller than the world of 3"):
        stream(data, 0, 3, batch=2)
    with pytest.raises(UserError, match="no split 'tune-test'"):
        UserStream(*data, "tune-test", batch=8, rank=0, world_size=1)
    empty = write_data(tmp_path / "e", {"pretrain": random_users(0, ITEMS)}, items=ITEMS, per_shard=2)
    with pytest.raises(UserError, match="has no users"):
        stream((tmp_path / "e", empty))
    with pytest.raises(UserError, match=r"00000\.tar: shard is missing"):
        stream((tmp_path / "nowhere", data[1]))


def test_a_changed_shard_is_noticed_when_read(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    write_data(folder, {"pretrain": random_users(8, ITEMS, shortest=5)}, items=ITEMS, per_shard=8)
    path = folder / "pretrain" / "00000.tar"
    changed = bytearray(path.read_bytes())
    changed[1500] ^= 1
    path.write_bytes(changed)
    with pytest.raises(UserError, match=r"00000\.tar"):
        read(stream((folder, load_manifest(folder)), batch=4))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda u: u.items.__setitem__(25, ITEMS), "column 'items' holds 90; the manifest has 0 to 89"),
        (lambda u: u.items.__setitem__(25, -1), "column 'items' holds -1; the manifest has 0 to 89"),
        (lambda u: u.attributes[1].__setitem__(5, 11), "column 'city' holds 11; the manifest has 0 to 10"),
        (
            lambda u: u.attributes[0].__setitem__(5, -(2**40)),
            "column 'age' holds -1099511627776; the manifest has 0 to 4",
        ),
    ],
)
def test_an_index_outside_its_table_is_refused_as_it_is_read(
    tmp_path: Path, change: Callable[[Users], None], said: str
) -> None:
    # Written so: size and checksum are right, and click 25 and user 5 are of the second member (users 4 to 7).
    users = random_users(8, ITEMS, shortest=6, longest=6)
    change(users)
    folder = tmp_path / "d"
    manifest = write_data(folder, {"pretrain": users}, items=ITEMS, per_shard=8)
    with pytest.raises(UserError, match=rf"pretrain/00000\.tar: member 00000001\.arrow: {said}"):
        read(stream((folder, manifest), batch=4))


def lists(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, pa.list_(kind or pa.int64()))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda times: lists([*times[:-1], times[-1][:-1]]), "columns 'items' and 'times' differ in the lengths of"),
        (lambda times: lists([times[0][:-1], [*times[1], 7], *times[2:]]), "columns 'items' and 'times' differ in"),
        (lambda times: lists([*times[:-1], [*times[-1][:-1], None]]), "column 'times' is not what prepare writes"),
        (lambda times: lists([*times[:-1], None]), "column 'times' is not what prepare writes"),
        (lambda times: lists(times, pa.float64()), "column 'times' is not what prepare writes"),
        (lambda times: pa.array([clicks[0] for clicks in times]), "column 'times' is not what prepare writes"),
        (lambda times: None, "column 'times' is not what prepare writes"),
        (lambda times: lists([*times[:-1], [*times[-1][:-1], -1]]), "column 'times' holds -1; prepare writes 0 to 41"),
        (
            lambda times: lists([*times[:-1], [*times[-1][:-1], 1_700_000_000_000]]),  # milliseconds
            "column 'times' holds 1700000000000; prepare writes 0 to 4133980799",
        ),
    ],
)
def test_damaged_times_are_refused_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Any], pa.Array | None], said: str
) -> None:
    def damaged_bytes(batch: pa.RecordBatch) -> bytes:
        if batch.column("user")[0].as_py() == 4:  # the second member alone
            times = damage(batch.column("times").to_pylist())
            batch = batch.drop_columns("times")
            batch = batch.append_column("times", times) if times is not None else batch
        return shard_writer.stream_bytes(batch)

    monkeypatch.setattr(shards, "stream_bytes", damaged_bytes)  # so that size and checksum are right
    users = random_users(8, ITEMS, shortest=6, longest=6, times=True)
    manifest = write_data(tmp_path / "d", {"pretrain": users}, items=ITEMS, per_shard=8)
    with pytest.raises(UserError, match=rf"pretrain/00000\.tar: member 00000001\.arrow: {said}") as refused:
        read(stream((tmp_path / "d", manifest), batch=4))
    assert "\n" not in str(refused.value)


def test_columns_of_another_kind_are_refused(data: tuple[Path, Manifest]) -> None:
    folder, manifest = data
    job = dataclasses.replace(manifest.attributes[0], name="job")
    more = dataclasses.replace(manifest, attributes=(*manifest.attributes, job))
    with pytest.raises(UserError, match="column 'job' is not what prepare writes"):
        read(stream((folder, more)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "f" * 64}, "other data"),
        ({"split": "tune-train"}, "split tune-train, now pretrain"),
        ({"seed": 7}, "seed 7, now 1"),
        ({"batch": 64}, "batch 64, now 48"),
        ({"shuffle_shards": 8}, "shuffle_shards 8, now 4"),
    ],
)
def test_another_stream_does_not_resume(data: tuple[Path, Manifest], change: dict[str, object], message: str) -> None:
    now = stream(data).state()
    now.check_resumes(stream(data).state(epoch=3, step=2))
    with pytest.raises(UserError, match=message):
        now.check_resumes(dataclasses.replace(now, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 5, 40, 1000])
def test_stratified_order_is_a_permutation(count: int) -> None:
    lengths = np.random.default_rng(0).geometric(0.1, count)
    found = stratified_permutation(lengths, 3, 1, 2)
    assert sorted(found.tolist()) == list(range(count))
    if count == 1000:
        assert found.tolist() != stratified_permutation(lengths, 3, 1, 3).tolist()


def test_any_run_of_neighbours_has_its_share_of_long_histories() -> None:
    lengths = np.random.default_rng(0).geometric(0.04, 8192)
    plain = lengths[permutation(8192, 3, 1, 2)]
    found = lengths[stratified_permutation(lengths, 3, 1, 2)]
    for run in (4, 16, 128):
        spread = found.reshape(-1, run).sum(1).std()
        assert spread < (0.75 if run == 4 else 0.35) * plain.reshape(-1, run).sum(1).std()


def test_stratified_order_favours_no_user() -> None:
    # Over many seeds each user stands in the first eighth as often as any other.
    lengths = np.random.default_rng(0).geometric(0.1, 160)
    first = np.zeros(160)
    for seed in range(2000):
        first[stratified_permutation(lengths, seed, 0)[:20]] += 1
    assert abs(first - 250).max() < 5 * np.sqrt(250)
    by_length = first[np.argsort(lengths, kind="stable")].reshape(8, 20).sum(1)
    assert abs(by_length / 5000 - 1).max() < 0.05
