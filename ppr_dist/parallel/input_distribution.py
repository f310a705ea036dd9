"""A look-up in two halves: ids go to the ranks that hold their rows, and vectors come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.sharding.dp_sharding import DpSparseFeaturesDist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class InputDistribution:
    """Ids of one collection under way to the ranks that hold their rows.

    Made, :meth:`send_ids`, :meth:`wait`, :meth:`look_up`, in this order and once each. The first three make the host
    wait for what their own stream has to do, the last one does not.
    """

    def __init__(self, collection: Any, ids: Tensor, counts: dict[str, int]) -> None:
        """Tell each rank how many of ``ids`` int64 it will get; ``counts``: how many each key has, key after key.

        A collective.
        """
        self.collection, self.context = collection, collection.create_context()
        self._sizes = collection.input_dist(self.context, _features(ids, counts))

    def send_ids(self) -> None:
        """A collective."""
        self._under_way = self._sizes.wait()

    def wait(self) -> None:
        """Wait until the ids of all ranks are here, and tell the host how many."""
        self._ids = self._under_way.wait()

    def rows_asked(self) -> int:
        """How many rows all ranks ask of this one; known once it has waited."""
        return sum(len(ids.values()) for ids in self._ids)

    def look_up(self) -> Any:
        """Rows of the ids, on their way back to the ranks that asked. A collective."""
        return self.collection.compute_and_output_dist(self.context, self._ids)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Say that ``stream`` uses the memory of what has arrived."""
        self.context.record_stream(stream)
        self._ids.record_stream(stream)


def _features(values: Tensor, counts: dict[str, int]) -> KeyedJaggedTensor:
    """Ids, key after key, as TorchRec wants them. Does not wait for a GPU.

    What TorchRec takes for samples means nothing here. FBGEMM's CUDA kernels give each sample one warp (and one thread
    where they sort ids by owning rank), so there the ids are dealt to many.
    """
    keys, samples = list(counts), samples_of(dist.get_world_size()) if values.is_cuda else 1
    lengths = torch.empty(len(keys), samples, dtype=torch.int64, device=values.device)
    for of_key, count in zip(lengths, counts.values(), strict=True):
        of_key.fill_(count // samples)
        of_key[: count % samples] += 1
    # length_per_key is what TorchRec would otherwise copy back from the GPU.
    return KeyedJaggedTensor(keys=keys, values=values, lengths=lengths.view(-1), length_per_key=list(counts.values()))


def samples_of(world_size: int) -> int:
    """Samples to deal a key's ids to on a GPU; the same on all ranks, or the numbers would have to be exchanged first.

    A length of 8 bytes for each goes to every rank. Those who look rows up see the samples of all ranks: 4,096 keep a
    GPU's memory busy. Those who sort ids by rank have their own alone: at least 32, a warp.
    """
    return max(32, 4096 // world_size)


def send_ids_over(collection: Any, group: dist.ProcessGroup | None) -> None:
    """Let ids of ``collection`` travel over a group of their own: on its queue they wait for no vectors and gradients.

    None, with one rank: it looks its ids up as they are. TorchRec would exchange nothing, yet make a permutation on the
    host and wait for its copy to the GPU.
    """
    for sharding in collection._sharding_type_to_sharding.values():
        sharding.create_input_dist = _over(sharding.create_input_dist, group) if group else DpSparseFeaturesDist


def _over(create: Callable[[], Any], group: dist.ProcessGroup) -> Callable[[], Any]:
    def create_input_dist() -> Any:
        made = create()
        made._dist._pg = group
        return made

    return create_input_dist
