"""A look-up in two halves: ids go to the ranks that hold their rows, and vectors come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.sharding.dp_sharding import DpSparseFeaturesDist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

SAMPLES = 4096  # see _features; some thousand warps keep a GPU's memory busy


class Request:
    """Ids of one collection on their way to the ranks that hold their rows.

    Made, :meth:`dispatch`, :meth:`arrive`, :meth:`look_up`, in this order and once each. The first three make the host
    wait for what their own stream has to do, the last one does not.
    """

    def __init__(self, collection: Any, keys: list[str], ids: Tensor) -> None:
        """Tell each rank how many of ``ids`` int64 it will get; the same number for every key, key after key.

        A collective.
        """
        self.collection, self.context = collection, collection.create_context()
        self._announced = collection.input_dist(self.context, _features(keys, ids))

    def dispatch(self) -> None:
        """Send the ids. A collective."""
        self._under_way = self._announced.wait()

    def arrive(self) -> None:
        """Wait until the ids of all ranks are here, and tell the host how many."""
        self._ids = self._under_way.wait()

    def look_up(self) -> Any:
        """Rows of the ids, on their way back to the ranks that asked. A collective."""
        return self.collection.compute_and_output_dist(self.context, self._ids)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Say that ``stream`` uses the memory of what has arrived."""
        self.context.record_stream(stream)
        self._ids.record_stream(stream)


@dataclasses.dataclass(frozen=True)
class SentIds:
    """Ids of a batch, sent. Each is looked up once."""

    items: Request
    profiles: Request | None

    def dispatch(self) -> None:
        for request in self._requests():
            request.dispatch()

    def arrive(self) -> None:
        for request in self._requests():
            request.arrive()

    def _requests(self) -> list[Request]:
        return [request for request in (self.items, self.profiles) if request is not None]


Travelling = TypeVar("Travelling", Request, SentIds)


def delivered(sent: Travelling) -> Travelling:
    """All the way at once. A collective."""
    sent.dispatch()
    sent.arrive()
    return sent


def _features(keys: list[str], values: Tensor) -> KeyedJaggedTensor:
    """The same number of ids for every key, key after key, as TorchRec wants them. Does not wait for a GPU.

    What TorchRec takes for samples means nothing here. FBGEMM's CUDA kernels give each sample one warp (and one thread
    where they sort ids by owning rank), so there the ids are dealt to many; as many on every rank, though the number of
    ids may differ, because other numbers would have to be exchanged first.
    """
    each, samples = len(values) // len(keys), SAMPLES if values.is_cuda else 1
    lengths = torch.full((len(keys), samples), each // samples, dtype=torch.int64, device=values.device)
    lengths[:, : each % samples] += 1
    # length_per_key is what TorchRec would otherwise copy back from the GPU.
    return KeyedJaggedTensor(keys=keys, values=values, lengths=lengths.view(-1), length_per_key=[each] * len(keys))


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
