"""One process group for all tests that run a model in the process of pytest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ppr_dist.parallel.mesh import Mesh, mesh


@pytest.fixture(scope="package")
def gpu() -> Iterator[Mesh]:
    """The only rank, on the first GPU."""
    with mesh() as ranks:
        yield ranks
