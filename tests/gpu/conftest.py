"""One process group for all tests that run a model in the process of pytest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ppr_dist.parallel.distributed import DistributedContext, distributed_context


@pytest.fixture(scope="package")
def gpu() -> Iterator[DistributedContext]:
    """The only rank, on the first GPU."""
    with distributed_context() as context:
        yield context
