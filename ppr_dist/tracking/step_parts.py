"""Where the time of a training step goes: what the loop calls is wrapped for one step now and then, and not changed.

Between two samples nothing is wrapped, and costs nothing. In a sampled step a GPU is waited for at each turn from one
part to the next, so that what usually runs side by side stands one after the other.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from ppr_dist.parallel import collectives, prefetch
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.embeddings import PendingLookUp, ShardedEmbeddings
from ppr_dist.tracking.part_names import (
    ALL_REDUCE,
    BACKWARD,
    DATA,
    FORWARD,
    GATHER,
    IDS,
    LOOK_UP,
    LOSS,
    PARTS,
    REST,
    TABLES,
    UPDATE,
)

Item = TypeVar("Item")


class StepParts:
    """Seconds by part between :meth:`start` and :meth:`stop`; time inside a nested part counts for that one alone."""

    def __init__(self, parallel: Parallel) -> None:
        self.parallel = parallel
        self.seconds: dict[str, float] = defaultdict(float)
        self.total = 0.0
        """Seconds between all starts and stops."""
        self.running = False
        self._cuda = parallel.embeddings.device.type == "cuda"
        self._open: list[str] = []
        self._last = self._began = 0.0
        self._undo: list[Callable[[], None]] = []

    def start(self) -> None:
        """Wrap what a step calls, and count from here."""
        from ppr_dist import trainer  # which imports this

        engine = self.parallel.engine
        for method in ("__init__", "send_ids", "wait"):
            self._watch(prefetch._Prefetch, method, IDS)
        self._watch(ShardedEmbeddings, "look_up", LOOK_UP)
        self._watch(engine, "forward", FORWARD)
        self._watch(trainer, "start", GATHER)
        self._watch(collectives, "start_reduce_scatter", GATHER)  # the gather's backward
        self._watch(collectives._Way, "wait", GATHER)
        self._watch(trainer, "step_loss", LOSS)
        self._watch(engine, "allreduce_gradients", ALL_REDUCE)
        self._watch(engine, "backward", BACKWARD)
        self._watch(engine, "step", UPDATE)
        self._mark_tables()
        self.running = True
        self._began = self._last = self._now()

    def stop(self) -> None:
        """Count to here, and take off what was wrapped."""
        self._turn()
        self._open.clear()
        self.total += self._last - self._began
        while self._undo:
            self._undo.pop()()
        self.running = False

    def take(self) -> dict[str, float]:
        """Seconds of every part and of the rest, to begin again at 0."""
        taken = {name: self.seconds.get(name, 0.0) for name in PARTS}
        taken[REST] = self.total - sum(taken.values())
        self.seconds.clear()
        self.total = 0.0
        return taken

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done inside as part ``name``; nothing where no step is sampled."""
        if not self.running:
            yield
            return
        depth = len(self._open)
        self._begin(name)
        try:
            yield
        finally:
            self._turn()
            del self._open[depth:]

    def data(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass on ``batches``, counting the time each takes to come."""
        iterator = iter(batches)
        while True:
            with self.part(DATA):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _turn(self) -> None:
        now = self._now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._last
        self._last = now

    def _begin(self, name: str) -> None:
        self._turn()
        self._open.append(name)

    def _watch(self, owner: Any, function: str, name: str) -> None:
        """Count calls of ``owner.function`` as part ``name`` until :meth:`stop`."""
        plain: Callable[..., Any] = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return plain(*args, **kwargs)

        self._replace(owner, function, timed)

    def _mark_tables(self) -> None:
        """Backward comes to the tables last; what follows within it is theirs.

        To tables of labels it comes first: they count as backward.
        """
        look_up = ShardedEmbeddings.look_up

        def with_hook(embeddings: ShardedEmbeddings, pending: PendingLookUp) -> tuple[dict[str, Tensor], ...]:
            items, profiles, labels = look_up(embeddings, pending)
            for rows in (*items.values(), *profiles.values()):
                if rows.grad_fn is not None:  # not of a frozen table
                    rows.grad_fn.register_prehook(lambda _: self._begin(TABLES) if self.running else None)
            return items, profiles, labels

        self._replace(ShardedEmbeddings, "look_up", with_hook)

    def _replace(self, owner: Any, function: str, by: Callable[..., Any]) -> None:
        own, before = function in vars(owner), vars(owner).get(function)
        setattr(owner, function, by)
        self._undo.append(lambda: setattr(owner, function, before) if own else delattr(owner, function))
