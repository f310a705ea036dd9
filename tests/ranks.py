"""Run a function on several real gloo ranks and hand back what each returned."""

from __future__ import annotations

import multiprocessing
import os
import queue
import resource
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

# A server process imports the heavy packages once and forks each rank and command from itself.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preloaded"])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = 120,
    gpus: bool = False,
    open_files: int | None = None,
) -> list[Any]:
    """Return function(context, *args) of every rank; fail with the first traceback, or after ``timeout`` seconds.

    ``gpus``: each on a GPU of its own, and not on the CPU. ``open_files``: each rank's soft limit as it starts.
    """
    context: Any = multiprocessing.get_context("spawn") if gpus else CONTEXT
    results = context.Queue()
    port = free_port()
    ranks = [
        context.Process(
            target=_rank, args=(function, rank, world_size, port, args, results, gpus, open_files), daemon=True
        )
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    found: dict[int, Any] = {}
    deadline = time.monotonic() + timeout
    try:
        while len(found) < world_size:
            rank, result, error = results.get(timeout=max(0.1, deadline - time.monotonic()))
            if error:
                raise AssertionError(f"rank {rank} of {world_size} failed:\n{error}")
            found[rank] = result
    except queue.Empty:
        raise AssertionError(f"{world_size} ranks did not finish within {timeout} s") from None
    finally:
        for process in ranks:
            process.join(timeout=5 if len(found) == world_size else 0)
            process.kill()
    return [found[rank] for rank in range(world_size)]


def _rank(
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    port: int,
    args: tuple[Any, ...],
    results: Any,
    gpus: bool,
    open_files: int | None,
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    import torch

    from ppr_dist.parallel.distributed import distributed_context

    torch.set_num_threads(1)
    try:
        with distributed_context(timeout_minutes=2) as context:
            results.put((rank, function(context, *args), None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
