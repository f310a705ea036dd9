"""What chooses among losses refuses a kind that it does not know."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from ppr_dist.objective import prediction_loss

from ppr_dist.config import Loss


def test_an_unknown_kind_of_loss_is_not_bpr() -> None:
    batch = SimpleNamespace(
        targets=torch.tensor([0]), item_ids=torch.tensor([5, 6]), negatives=torch.tensor([[1]]), candidates=None
    )
    loss = dataclasses.replace(Loss(kind="bpr"), kind="hinge")
    with pytest.raises(ValueError, match="'hinge': no such objective"):
        prediction_loss(loss, batch, None, torch.ones(2, 4), None, torch.ones(1, 4))  # type: ignore[arg-type]
