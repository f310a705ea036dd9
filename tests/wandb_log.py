"""Read the log of an offline W&B run: LevelDB's log format, whose records are protobuf messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32 * 1024, 7
"""Bytes of a block, and of what stands before each piece of a record: checksum 4, length 2, type 1."""
FULL, LAST = 1, 4


def records(run: Path) -> Iterator[Any]:
    """Messages of the one offline run in the folder ``run``."""
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    content = path.read_bytes()
    place, whole = 7, b""  # behind the file's own header
    while place < len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def history(run: Path) -> list[dict[str, Any]]:
    """What was logged, a dict for each step."""
    return [_values(record.history.item) for record in records(run) if record.HasField("history")]


def summary(run: Path) -> dict[str, Any]:
    """Figures of the run as a whole."""
    return {k: v for r in records(run) if r.HasField("summary") for k, v in _values(r.summary.update).items()}


def started(run: Path) -> Any:
    """The run's own message: group, id, project, configuration."""
    return next(record.run for record in records(run) if record.HasField("run"))


def config(run: Path) -> dict[str, Any]:
    return _values(started(run).config.update)


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
