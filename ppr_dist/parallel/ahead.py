"""One batch ahead: what the ranks tell one another of the next batch travels while this one computes.

What TorchRec's TrainPipelineSparseDist does for a model that is one module, for one that is tables and an engine. Only
ids and counts run ahead; rows are looked up after the update before, so training is the same to the bit.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch

from ppr_dist.batch import Batch

Sent = TypeVar("Sent")
Sent_co = TypeVar("Sent_co", covariant=True)


class Sending(Protocol[Sent_co]):
    """What is under way of a batch. Both methods are collectives that may make the host wait."""

    def dispatch(self) -> None:
        """Send what could not be sent before the ranks knew how much it is."""

    def arrive(self) -> Sent_co:
        """Wait for all of it."""


def one_ahead(
    batches: Iterable[tuple[int, Batch]], start: Callable[[Batch], Sending[Sent]], device: torch.device
) -> Iterator[tuple[Batch, Sent]]:
    """Yield each batch on ``device`` with what ``start`` began for it, after starting the one behind it. A collective.

    Where the host must wait (how many ids come from whom?), it does so between two steps and on a stream of its own:
    for what stands there, sent a step ago, while the GPU still works on the steps before.
    """
    coming: tuple[Batch, Sending[Sent]] | None = None
    for _, batch in batches:
        with _aside(device):
            following = batch.to(device)
            sending = start(following)
        if coming:
            yield _here(*coming, device)
        with _aside(device):
            sending.dispatch()
        coming = following, sending
    if coming:
        yield _here(*coming, device)


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a GPU for what runs ahead; torch has 32 and hands them out again."""
    return torch.cuda.Stream(device, priority=-1)  # first: the host waits for it, while the GPU has other work


def _aside(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.stream(side_stream(device)) if device.type == "cuda" else nullcontext()


def _here(batch: Batch, sending: Sending[Sent], device: torch.device) -> tuple[Batch, Sent]:
    """Let this stream use what the side stream made, and keep the memory from being given away under it."""
    with _aside(device):
        sent = sending.arrive()
    if device.type == "cuda":
        here = torch.cuda.current_stream()
        here.wait_stream(side_stream(device))
        _record(batch, here)
        _record(sent, here)
    return batch, sent


def _record(value: Any, stream: torch.cuda.Stream) -> None:
    if hasattr(value, "record_stream"):
        value.record_stream(stream)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _record(getattr(value, field.name), stream)
