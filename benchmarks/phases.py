"""Where the time of a training step goes, measured on the loop as it is: its functions are wrapped, not changed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

from ppr_dist import trainer
from ppr_dist.parallel import collectives, prefetch
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.embeddings import PendingLookUp, ShardedEmbeddings

Item = TypeVar("Item")

DATA, IDS, LOOK_UP = "data", "id exchange", "look-up, vectors back"
FORWARD, GATHER, LOSS, BACKWARD = "dense forward", "candidate gather", "loss", "dense backward"
TABLES, ALL_REDUCE, UPDATE = "table gradients and update", "dense all-reduce", "dense update"


class Phases:
    """Seconds by phase; time inside a nested phase counts for that one alone. For a CPU: nothing runs behind."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._last = 0.0

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._last
        self._last = now

    def begin(self, name: str) -> None:
        self._turn()
        self._open.append(name)

    def end(self, depth: int | None = None) -> None:
        """Close the innermost phase, or all beyond ``depth``."""
        self._turn()
        del self._open[len(self._open) - 1 if depth is None else depth :]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        depth = len(self._open)
        self.begin(name)
        try:
            yield
        finally:
            self.end(depth)

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Count calls of ``owner.function`` as phase ``name``."""
        plain: Callable[..., Any] = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return plain(*args, **kwargs)

        setattr(owner, function, timed)

    def data(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass on ``batches``, counting the time each takes to come."""
        iterator = iter(batches)
        while True:
            with self.phase(DATA):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch


def watch_training(parallel: Parallel) -> Phases:
    """Wrap everything that a training step calls; to be done once in a process."""
    phases = Phases()
    for method in ("__init__", "send_ids", "wait"):
        phases.watch(prefetch._Prefetch, method, IDS)
    phases.watch(ShardedEmbeddings, "look_up", LOOK_UP)
    phases.watch(parallel.engine, "forward", FORWARD)
    phases.watch(trainer, "start", GATHER)
    phases.watch(collectives, "start_reduce_scatter", GATHER)  # the gather's backward
    phases.watch(collectives._Way, "wait", GATHER)
    phases.watch(trainer, "step_loss", LOSS)
    phases.watch(parallel.engine, "allreduce_gradients", ALL_REDUCE)
    phases.watch(parallel.engine, "backward", BACKWARD)
    phases.watch(parallel.engine, "step", UPDATE)

    look_up = ShardedEmbeddings.look_up

    def with_hook(embeddings: ShardedEmbeddings, pending: PendingLookUp) -> tuple[Tensor, dict[str, Tensor]]:
        items, profiles = look_up(embeddings, pending)
        if items.grad_fn is not None:
            # Backward comes to the tables last; what follows within it is theirs.
            items.grad_fn.register_prehook(lambda _: phases.begin(TABLES))
        return items, profiles

    ShardedEmbeddings.look_up = with_hook  # type: ignore[assignment, method-assign]
    return phases
