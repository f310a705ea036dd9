"""The same tables, model and batch give the same losses, gradients and updates on a GPU as on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist.config import Config
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.parallel.distributed import DistributedContext
from tests.multirank.models import small_config, steps
from tests.ranks import run_ranks

pytestmark = pytest.mark.gpu
TOLERANCE = {"rtol": 1e-3, "atol": 1e-5}
"""Sums in another order, and attention by another formula."""


@pytest.mark.parametrize("optimizer", ["sgd", "rowwise_adagrad"])
@pytest.mark.parametrize("objective", ["softmax", "full_softmax", "bpr", "bce", "gbce"])
@pytest.mark.parametrize("method", [None, "ppr-full"])
def test_two_steps(objective: str, optimizer: str, method: str | None, gpu: DistributedContext) -> None:
    _check(small_config(objective, optimizer=optimizer), method, gpu)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_two_steps_of_every_backbone(backbone: str, gpu: DistributedContext, monkeypatch: pytest.MonkeyPatch) -> None:
    # cuDNN's recurrent layers take tf32 unless told otherwise.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    _check(small_config(backbone=backbone), "ppr-full", gpu)


def _check(config: Config, method: str | None, gpu: DistributedContext) -> None:
    cpu: dict[str, Any]
    (cpu,) = run_ranks(steps, 1, config, method, 2, True)
    found = steps(gpu, config, method, 2, True)
    np.testing.assert_allclose(found["losses"], cpu["losses"], rtol=1e-4, atol=1e-6)
    # Not the dense parameters: Adam makes whole steps of gradients that are rounding noise (the keys' bias).
    for part in ("gradients", "tables"):
        assert found[part].keys() == cpu[part].keys()
        for name, value in cpu[part].items():
            np.testing.assert_allclose(found[part][name], value, err_msg=f"{part} of {name}", **TOLERANCE)
