"""One batch ahead: the ids of the next batch travel while this one computes.

What TorchRec's TrainPipelineSparseDist does for a model that is one module, for one that is tables and an engine. Only
ids run ahead; rows are looked up after the update before, so training is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import torch

from ppr_dist.batch import Batch
from ppr_dist.parallel.sparse import SentIds, Tables


def one_ahead(
    batches: Iterable[tuple[int, Batch]], tables: Tables, device: torch.device
) -> Iterator[tuple[Batch, SentIds]]:
    """Yield each batch on ``device`` with its ids sent, after sending those of the batch behind it. A collective."""
    # A stream of its own: finding out how many ids go where makes the host wait, but only for what stands there.
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    ahead: tuple[Batch, SentIds] | None = None
    for _, batch in batches:
        with torch.cuda.stream(side) if side else nullcontext():
            on_device = batch.to(device)
            sent = tables.send_ids(on_device)
        if ahead:
            yield _here(ahead, side)
        ahead = on_device, sent
    if ahead:
        yield _here(ahead, side)


def _here(ahead: tuple[Batch, SentIds], side: torch.cuda.Stream | None) -> tuple[Batch, SentIds]:
    if side:
        torch.cuda.current_stream().wait_stream(side)
        ahead[0].record_stream(torch.cuda.current_stream())
    return ahead
