"""A Slurm cluster for the tests of a session, where Slurm is installed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster(worker_id: str) -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(f"no Slurm cluster: {reason}")
    # Not pytest's folder: a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="ppr-slurm-"))
    worker = int(worker_id.removeprefix("gw")) if worker_id != "master" else 0
    started = Cluster(folder, first_job=1 + 1000 * worker)
    try:
        started.start()
        yield started
    finally:
        started.stop()
        shutil.rmtree(folder, ignore_errors=True)
