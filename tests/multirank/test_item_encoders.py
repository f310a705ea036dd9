"""One-hot features under a linear layer without a constant are the table of ids: the same losses, the same updates."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist.build_model import untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.manifest import ItemData
from ppr_dist.model.item_encoders.features import Settings
from ppr_dist.parallel.apply import parallelize
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.runs import table_sizes
from ppr_dist.step_loss import make_objectives
from ppr_dist.trainer import train_step
from tests.multirank.models import ITEMS, USERS, make_collator, part, small_config, users, whole_tables
from tests.ranks import run_ranks

LR, STEPS = 0.3, 3
ONE_HOT = {"one_hot": ItemData(kind="features", columns=ITEMS, known=ITEMS, sha256="")}


def with_encoder(encoder: str) -> Config:
    """SGD everywhere at one learning rate, unclipped."""
    config = small_config(optimizer="sgd", features={"norm": False, "bias": False})
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, item_encoders=[encoder]),
        tables=dataclasses.replace(config.tables, lr=LR),
        train=dataclasses.replace(config.train, lr=LR, max_grad_norm=0.0),
    )


def trained(context: DistributedContext, encoder: str, start: np.ndarray | None) -> dict[str, Any]:
    """Losses, and the vectors of all items [ITEMS, D] before and after."""
    config, catalogue = with_encoder(encoder), Catalogue(items=ITEMS, attributes={}, item_data=ONE_HOT)
    assert config.part("features", Settings).bias is False
    torch.manual_seed(0)
    by_id = untuned_model(with_encoder("id"), catalogue)
    model = untuned_model(config, catalogue)
    model.load_state_dict(by_id.state_dict(), strict=False)  # all but what makes vectors of items
    if start is not None:
        assert [p.shape for p in model.item_encoder.parameters()] == [start.T.shape]
        with torch.no_grad():
            next(iter(model.item_encoder.parameters())).copy_(torch.from_numpy(start.T))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", lambda groups, lr, **_: torch.optim.SGD(groups, lr=lr))
        parallel = parallelize(table_sizes(config, catalogue, None), model, config, context)
    parallel.embeddings.fill_item_data({"one_hot": np.eye(ITEMS, dtype=np.float16)} if encoder == "features" else {})
    objectives = make_objectives(config, None, catalogue)
    collator, mine = make_collator(context, config, objectives, first_target=1), part(users(), context)

    def vectors() -> np.ndarray:
        if encoder == "id":
            return whole_tables(parallel)["item"]
        return next(parallel.engine.module.item_encoder.parameters()).detach().numpy().T.copy()

    before, losses = vectors(), []
    for step in range(STEPS):
        batch = collator(mine, epoch=0, step=step, global_users=USERS)
        losses.append(float(train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives).total))
    return {"losses": losses, "before": before, "after": vectors()}


@pytest.mark.parametrize("world_size", [1, 2])
def test_one_hot_features_are_updated_as_rows_of_the_table(world_size: int) -> None:
    ids = run_ranks(trained, world_size, "id", None)
    features = run_ranks(trained, world_size, "features", ids[0]["before"])
    for by_id, by_features in zip(ids, features, strict=True):
        np.testing.assert_array_equal(by_features["before"], by_id["before"])
        assert np.abs(by_id["after"] - by_id["before"]).max() > 1e-2
        np.testing.assert_allclose(by_features["losses"], by_id["losses"], rtol=1e-5)
        np.testing.assert_allclose(by_features["after"], by_id["after"], rtol=1e-4, atol=1e-6)
