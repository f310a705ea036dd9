"""Run an entry point as its own process would, without paying for its imports: forked from a warm server."""

from __future__ import annotations

import dataclasses
import importlib
import os
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tests import ranks


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command left: exit status, and text by rank."""

    codes: list[int | None]
    out: list[str]
    err: list[str]

    @property
    def lines(self) -> list[str]:
        """Lines on stderr, of all ranks."""
        return [line for text in self.err for line in text.splitlines()]


def run_command(
    module: str,
    *argv: Any,
    world_size: int = 0,
    timeout: float = 120,
    end_with_first: bool = False,
    variables: Mapping[str, str] | None = None,
) -> Done:
    """Run ``python -m ppr_dist.<module> argv``; fail where it does not end within ``timeout`` seconds.

    Args:
        module: of ``ppr_dist``, or ``tests.<module>``.
        world_size: ranks as torchrun would start them; 0 = one process without torchrun.
        end_with_first: end all ranks as soon as one has failed, as torchrun does; else each must end by itself.
        variables: environment variables besides.
    """
    port = ranks.free_port()
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank in range(max(1, world_size)):
            environment = {"CUDA_VISIBLE_DEVICES": "", **(variables or {})}
            if world_size:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            words = (module, [str(word) for word in argv], environment, f"{folder}/{rank}", os.getcwd())
            processes.append(ranks.CONTEXT.Process(target=_command, args=words, daemon=True))
            for kind in ("out", "err"):  # here: a rank may be ended before it begins
                Path(f"{folder}/{rank}.{kind}").touch()
        for process in processes:
            process.start()
        deadline = time.monotonic() + timeout
        try:
            running = list(processes)
            while running and time.monotonic() < deadline:
                wait([process.sentinel for process in running], timeout=max(0.1, deadline - time.monotonic()))
                running = [process for process in running if process.exitcode is None]
                if end_with_first and any(process.exitcode for process in processes):
                    for process in running:
                        process.kill()
                        process.join()
            texts = {
                kind: [Path(f"{folder}/{rank}.{kind}").read_text() for rank in range(len(processes))]
                for kind in ("out", "err")
            }
            if any(process.exitcode is None for process in processes):
                raise AssertionError(f"{module} did not end within {timeout} s:\n{texts}")
        finally:
            for process in processes:
                process.kill()
                process.join()
        return Done([process.exitcode for process in processes], texts["out"], texts["err"])


def succeed(module: str, *argv: Any, world_size: int = 0, timeout: float = 120) -> Done:
    """Run a command that must end well."""
    done = run_command(module, *argv, world_size=world_size, timeout=timeout)
    assert set(done.codes) == {0}, f"{module} {argv}: {done.codes}\n" + "\n".join(done.err)
    return done


def succeed_in_turn(module: str, *argvs: tuple[Any, ...], timeout: float = 120) -> None:
    """Run a command several times in one process: most of what one costs is to start."""
    words = [[str(word) for word in argv] for argv in argvs]
    process = ranks.CONTEXT.Process(target=_in_turn, args=(module, words, os.getcwd()))
    process.start()
    process.join(timeout)
    process.kill()
    assert process.exitcode == 0, f"{module}: {process.exitcode}"


def _in_turn(module: str, argvs: list[list[str]], folder: str) -> None:
    os.chdir(folder)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

    import torch

    torch.set_num_threads(1)
    for argv in argvs:
        importlib.import_module(f"ppr_dist.{module}").main(argv)


def _command(module: str, argv: list[str], environment: dict[str, str], output: str, folder: str) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    for descriptor, kind in ((1, "out"), (2, "err")):
        file = os.open(f"{output}.{kind}", os.O_WRONLY)
        os.dup2(file, descriptor)
        os.close(file)

    import torch

    from ppr_dist import cli

    torch.set_num_threads(1)
    name = module if module.startswith("tests.") else f"ppr_dist.{module}"
    cli.run(importlib.import_module(name).main, argv)
