"""How fast do shards become batches, beside two other ways to store the same users?

    python -m benchmarks.loader [--users 200000] [--out results.md]

One process reads the same users as (a) ppr_dist's stream, from shards to ``Batch`` (shuffled, negatives drawn, ids
deduplicated), (b) the same stream to columnar users only, (c) a WebDataset with one member per user, decoded and
collated into padded tensors, (d) a Parquet file of list columns behind a PyTorch DataLoader. Also reports the share of
real tokens among the slots of attention's padded buckets; all else in the transformer runs over real tokens alone.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.hardware import hardware, heading
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.stream.collate import Collator
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.data.stream.users import read_shards
from ppr_dist.data.synthetic.catalogue import main as synthetic
from ppr_dist.objectives import softmax
from ppr_dist.step_loss import make_objectives

BATCH, LENGTH = 256, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--slow-users", type=int, default=10_000, help="users read the slow ways")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = _measure(Path(folder), options.users, options.slow_users)
    if options.out:
        options.out.write_text(_markdown(result, options.users))
    print(json.dumps(result))


def _measure(work: Path, users: int, slow_users: int) -> dict[str, Any]:
    print("making the log", file=sys.stderr, flush=True)
    synthetic(["--out", str(work / "log"), "--users", str(users), "--items", "100000", "--cold-fraction", "0.1"])
    log, data = work / "log", work / "data"
    prepare(str(log / "interactions.parquet"), str(log / "users.parquet"), data, PrepareConfig(buckets={"age": 6}))
    manifest = load_manifest(data)
    split = manifest.split("pretrain")
    events_per_user = split.events / split.users
    real, slots = _tokens(data, manifest)
    table = _all_users(data, manifest, slow_users)
    _write_members(table, work / "members.tar")
    pq.write_table(table, work / "users.parquet", row_group_size=1024)
    rates = {
        "stream_to_batch": _rate(_batches(data, manifest), lambda batch: len(batch.users)),
        "stream_to_users": _rate(_columns(data, manifest), len),
        "one_member_per_user": _rate(_member_batches(work / "members.tar"), len),
        "parquet_dataloader": _rate(_parquet_batches(work / "users.parquet"), len),
    }
    return {
        "benchmark": "loader",
        **hardware(),
        "users_per_s": rates,
        "events_per_s": {name: rate * events_per_user for name, rate in rates.items()},
        "batch_over_one_member_per_user": rates["stream_to_batch"] / rates["one_member_per_user"],
        "users_over_one_member_per_user": rates["stream_to_users"] / rates["one_member_per_user"],
        "real_token_share": real / slots,
    }


def _rate(batches: Iterable[Any], size: Any) -> float:
    """Users per second; the first batch (opening, the first window) is not counted."""
    batches = iter(batches)
    next(batches)
    start, users = time.perf_counter(), 0
    for batch in batches:
        users += size(batch)
    return users / (time.perf_counter() - start)


def _stream(data: Path, manifest: Manifest) -> UserStream:
    return UserStream(data, manifest, "pretrain", batch=BATCH, rank=0, world_size=1, shuffle_shards=2)


def _columns(data: Path, manifest: Manifest) -> Iterator[Any]:
    stream = _stream(data, manifest)
    for _, _, users in stream.batches(0, range(stream.steps)):
        yield users


def _batches(data: Path, manifest: Manifest) -> Iterator[Any]:
    stream = _stream(data, manifest)
    config = Config(parts={"softmax": softmax.Settings(uniform_negatives=512, in_batch_per_user=2)})
    collator = Collator(
        objectives=make_objectives(config, None, Catalogue(items=manifest.items, attributes={})),
        items=manifest.items,
        probability=np.full(manifest.items, 1 / manifest.items, np.float32),
        max_length=LENGTH,
        hold_out=2,
        first_target=1,
        seed=0,
        rank=0,
        world_size=1,
    )
    for step, total, users in stream.batches(0, range(stream.steps)):
        yield collator(users, epoch=0, step=step, global_users=total)


def _tokens(data: Path, manifest: Manifest) -> tuple[int, int]:
    real = slots = 0
    for batch in _batches(data, manifest):
        real += int(batch.history.lengths.sum())
        slots += sum(bucket.sequences * bucket.width for bucket in batch.history.buckets)
    return real, slots


def _all_users(data: Path, manifest: Manifest, most: int) -> pa.Table:
    return read_shards(data, manifest.split("pretrain").shards, manifest).slice(0, most)


def _write_members(table: pa.Table, path: Path) -> None:
    with wds.TarWriter(str(path)) as tar:
        for number, items in enumerate(table.column("items").to_pylist()):
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(items))
            tar.write({"__key__": f"{number:08d}", "npy": buffer.getvalue()})


def _padded(histories: list[np.ndarray]) -> torch.Tensor:
    out = torch.zeros(len(histories), LENGTH, dtype=torch.int64)
    for row, items in enumerate(histories):
        kept = torch.as_tensor(items[-LENGTH:])
        out[row, : len(kept)] = kept
    return out


def _member_batches(path: Path) -> Iterator[torch.Tensor]:
    decoded = wds.WebDataset(str(path), shardshuffle=False).decode().to_tuple("npy")
    yield from decoded.batched(BATCH, collation_fn=lambda samples: _padded([s[0] for s in samples]))


class _Rows(IterableDataset[np.ndarray]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[np.ndarray]:
        for batch in pq.ParquetFile(self.path).iter_batches(columns=["items"]):
            for items in batch.column(0):
                yield np.asarray(items.as_py())


def _parquet_batches(path: Path) -> Iterator[torch.Tensor]:
    yield from DataLoader(_Rows(path), batch_size=BATCH, collate_fn=_padded)


def _markdown(result: dict[str, Any], users: int) -> str:
    lines = [
        *heading("Reading users", result, "One process, one thread."),
        f"    python -m benchmarks.loader --users {users}",
        "",
        "| way | users/s | clicks/s |",
        "|---|---|---|",
        *(f"| {n} | {rate:,.0f} | {result['events_per_s'][n]:,.0f} |" for n, rate in result["users_per_s"].items()),
        "",
        f"From shards to a whole training batch is {result['batch_over_one_member_per_user']:.0f} × one member per "
        f"user; to columnar users, what the other ways give, {result['users_over_one_member_per_user']:.0f} ×.",
        "",
        "Real tokens among the transformer's slots: 100 %; among those of attention's padded buckets: "
        f"{result['real_token_share']:.1%}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
