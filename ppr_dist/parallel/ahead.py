"""One batch ahead: what the ranks tell one another of the next batch travels while this one computes.

What TorchRec's TrainPipelineSparseDist does for a model that is one module, for one that is tables and an engine. Only
ids and counts run ahead; rows are looked up after the update before, so training is the same to the bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

import torch

from ppr_dist.batch import Batch

Sent = TypeVar("Sent")


def one_ahead(
    batches: Iterable[tuple[int, Batch]], send: Callable[[Batch], Sent], device: torch.device
) -> Iterator[tuple[Batch, Sent]]:
    """Yield each batch on ``device`` with what ``send`` made of it, after sending the batch behind it. A collective."""
    # A stream of its own: finding out how many ids go where makes the host wait, but only for what stands there.
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    ahead: tuple[Batch, Sent, torch.cuda.Event | None] | None = None
    for _, batch in batches:
        with torch.cuda.stream(side) if side else nullcontext():
            on_device = batch.to(device)
            sent = send(on_device)
            made = side.record_event() if side else None
        if ahead:
            yield _here(*ahead)
        ahead = on_device, sent, made
    if ahead:
        yield _here(*ahead)


def _here(batch: Batch, sent: Sent, made: torch.cuda.Event | None) -> tuple[Batch, Sent]:
    """Let this stream use what the side stream made, and keep the memory from being given away under it."""
    if made:
        here = torch.cuda.current_stream()
        here.wait_event(made)
        _record(batch, here)
        _record(sent, here)
    return batch, sent


def _record(value: Any, stream: torch.cuda.Stream) -> None:
    if hasattr(value, "record_stream"):
        value.record_stream(stream)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _record(getattr(value, field.name), stream)
