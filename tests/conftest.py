"""What all tests share: few threads, no network, and no GPU test where there is no GPU."""

from __future__ import annotations

import multiprocessing.forkserver
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

# Set before torch is imported, and inherited by every process a test starts.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)

import pytest
import torch
from filelock import FileLock


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` on a machine without one."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session", autouse=True)
def session_tmp(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what libraries write on the side (W&B runs, built ops) out of the repository and the home."""
    root = tmp_path_factory.mktemp("session")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "MPLCONFIGDIR", "TORCH_EXTENSIONS_DIR"):
        folder = root / name.lower()
        folder.mkdir()
        os.environ[name] = str(folder)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[], Any]], Any]:
    """``once(name, make)``: what ``make()`` returns, made by one of pytest's workers for all of them."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def made(name: str, make: Callable[[], Any]) -> Any:
        path = folder / f"{name}.pickle"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                path.write_bytes(pickle.dumps(make()))
            return pickle.loads(path.read_bytes())

    return made


@pytest.fixture(scope="session", autouse=True)
def server(session_tmp: None) -> None:
    """Start the server that ranks and commands are forked from, with what it is to import, where any test needs it.

    It sees no GPU: CUDA, once asked for, does not survive a fork, and the forks would see what the server saw.
    """
    if "tests.ranks" in sys.modules:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            multiprocessing.forkserver.ensure_running()
