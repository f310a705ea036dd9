"""Who this process is among its ranks, and agreement between them."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import logging
import os
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from ppr_dist.errors import UserError
from ppr_dist.restarts import warn_of_stale_addresses


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedContext:
    rank: int
    world_size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """True on the rank that writes and prints."""
        return self.rank == 0


def _hush_dependencies() -> None:
    """Drop warnings that libraries raise about one another and that no user of ours can act on."""
    # DeepSpeed calls collectives by the names torch 2.13 deprecates; TorchRec a tracing check that torch renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    warnings.filterwarnings(
        "ignore", "Please use DTensor instead", FutureWarning
    )  # TorchRec's shards, as DCP copies them
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


def _allow_many_sockets() -> None:
    """Lift this process's limit of open files to what the system allows.

    A rank talks to every other one, in gloo and in DeepSpeed's clone of the world group: by W = 340 ranks that is more
    than the usual soft limit of 1,024. Gloo connects to a peer only once it is needed where it is asked to.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")


_CONTEXTS = itertools.count()


@functools.cache
def _store() -> tuple[dist.Store, int, int]:
    return next(dist.rendezvous("env://"))


def _rendezvous(timeout: datetime.timedelta) -> tuple[dist.Store, int, int]:
    """The store that torchrun's ranks have in common, this rank, and the world size.

    One store for all contexts of this process, and keys of its own for each. torch would make a store anew, and the
    rank that comes first may find the one before, which is about to go, or its keys, and wait for ever.
    """
    store, rank, world_size = _store()
    store.set_timeout(timeout)
    return dist.PrefixStore(f"context-{next(_CONTEXTS)}", store), rank, world_size


def _leave() -> None:
    """Destroy the process groups, DeepSpeed's own names for them too: another run of this process makes new ones."""
    deepspeed = sys.modules.get("deepspeed")
    if deepspeed is not None and deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()
    else:
        dist.destroy_process_group()


@contextmanager
def distributed_context(timeout_minutes: float = 30) -> Iterator[DistributedContext]:
    """Join the process group torchrun describes, or make one of a single process; leave it at the end.

    After an error of one among several ranks nothing is left in order: under NCCL that is a collective, and the others
    may never come. The process must end (:func:`ppr_dist.cli.run`).
    """
    _hush_dependencies()
    warn_of_stale_addresses()
    _allow_many_sockets()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if "RANK" in os.environ:
        timeout = datetime.timedelta(minutes=timeout_minutes)
        store, rank, world_size = _rendezvous(timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    else:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    alone = dist.get_world_size() == 1
    try:
        yield DistributedContext(rank=dist.get_rank(), world_size=dist.get_world_size(), device=device)
    except BaseException:
        if alone:
            _leave()
        raise
    _leave()


Result = TypeVar("Result")


def on_main(function: Callable[[], Result]) -> Result:
    """Run ``function`` on rank 0 and return its result on every rank.

    A :class:`UserError` on rank 0 is raised on all ranks together, so that none waits for the others; so is an OSError
    (a full disk, a folder that may not be written), as a :class:`UserError`.
    """
    outcome: list[Result | UserError | None] = [None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = function()
        except UserError as error:
            outcome[0] = error
        except OSError as error:
            outcome[0] = UserError(str(error))
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], UserError):
        raise outcome[0]
    return outcome[0]  # type: ignore[return-value]
