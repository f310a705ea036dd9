"""A look-up in two halves: ids go to the ranks that hold their rows, and vectors come back."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.sharding.dp_sharding import DpSparseFeaturesDist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

_SAMPLES = 4096  # see _features; some thousand warps keep a GPU's memory busy


class Request:
    """Ids of one collection on their way to the ranks that hold their rows; how many go where is known already."""

    def __init__(self, collection: Any, keys: list[str], ids: Tensor) -> None:
        """Send ``ids`` int64, the same number for every key, key after key. A collective."""
        self.collection, self.context = collection, collection.create_context()
        self.arriving = collection.input_dist(self.context, _features(keys, ids)).wait()
        self.used_on: list[torch.cuda.Stream] = []

    def look_up(self) -> Any:
        ids = self.receive()
        return self.collection.compute_and_output_dist(self.context, ids)

    def receive(self) -> Any:
        """This rank's rows to look up, from all ranks."""
        ids = self.arriving.wait()
        for stream in self.used_on:
            ids.record_stream(stream)
        return ids

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Say that ``stream`` uses the memory too, of what has arrived and of what will."""
        self.context.record_stream(stream)
        self.used_on.append(stream)


@dataclasses.dataclass(frozen=True)
class SentIds:
    """Ids of a batch, sent. Each is looked up once."""

    items: Request
    profiles: Request | None


def _features(keys: list[str], values: Tensor) -> KeyedJaggedTensor:
    """The same number of ids for every key, key after key, as TorchRec wants them. Does not wait for a GPU.

    What TorchRec takes for samples means nothing here. FBGEMM's CUDA kernels give each sample one warp (and one thread
    where they sort ids by owning rank), so there the ids are dealt to many; as many on every rank, though the number of
    ids may differ, because other numbers would have to be exchanged first.
    """
    each, samples = len(values) // len(keys), _SAMPLES if values.is_cuda else 1
    lengths = torch.full((len(keys), samples), each // samples, dtype=torch.int64, device=values.device)
    lengths[:, : each % samples] += 1
    # length_per_key is what TorchRec would otherwise copy back from the GPU.
    return KeyedJaggedTensor(keys=keys, values=values, lengths=lengths.view(-1), length_per_key=[each] * len(keys))


def keep_ids_here(collection: Any) -> None:
    """Let the only rank look its ids up as they are.

    TorchRec would exchange nothing, yet make a permutation on the host and wait for its copy to the GPU.
    """
    for sharding in collection._sharding_type_to_sharding.values() if collection is not None else ():
        sharding.create_input_dist = DpSparseFeaturesDist
