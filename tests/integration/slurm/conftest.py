"""A Slurm cluster for the tests of a session, where Slurm is installed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(f"no Slurm cluster: {reason}")
    # Not pytest's folder: a socket's path has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="ppr-slurm-"))
    # Of another test worker, of this session or another one, the numbers are others.
    started = Cluster(folder, first_job=1 + 50 * (os.getpid() % 400))
    try:
        started.start()
        yield started
    finally:
        started.stop()
        shutil.rmtree(folder, ignore_errors=True)
