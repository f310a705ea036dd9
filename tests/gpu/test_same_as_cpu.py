"""The same tables, tower and batch give the same losses, gradients and updates on a GPU as on a CPU."""

from __future__ import annotations

import numpy as np
import pytest

from ppr_dist.parallel.distributed import DistributedContext
from tests.multirank.models import small_config, steps, with_loss
from tests.ranks import run_ranks

pytestmark = pytest.mark.gpu
TOLERANCE = {"rtol": 1e-3, "atol": 1e-5}
"""Sums in another order, and attention by another formula."""


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
@pytest.mark.parametrize("kind", ["softmax", "full_softmax", "bpr", "bce"])
@pytest.mark.parametrize("tuning", [False, True], ids=["pretrain", "tune"])
def test_two_steps(kind: str, optimizer: str, tuning: bool, gpu: DistributedContext) -> None:
    config = small_config(with_loss(kind), optimizer=optimizer)
    (cpu,) = run_ranks(steps, 1, config, tuning, 2, True, True)
    found = steps(gpu, config, tuning, 2, True, True)
    np.testing.assert_allclose(found["losses"], cpu["losses"], rtol=1e-4, atol=1e-6)
    # Not the dense parameters: Adam makes whole steps of gradients that are rounding noise (the keys' bias).
    for part in ("gradients", "tables"):
        assert found[part].keys() == cpu[part].keys()
        for name, value in cpu[part].items():
            np.testing.assert_allclose(found[part][name], value, err_msg=f"{part} of {name}", **TOLERANCE)
