"""Evaluation scores users and items as training does, whatever makes vectors of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.model.item_encoders import ITEM_ENCODERS
from ppr_dist.model.item_encoders.base import ItemEncoder
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.scoring import ModelScorer
from tests.multirank.models import ITEMS, USERS, build, part, small_config, users
from tests.ranks import run_ranks


class Threefold(ItemEncoder):
    reads_ids = True

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        return 3 * rows["id"]


def scores(context: DistributedContext, backbone: str, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of each target against its batch's items, as training has them and as evaluation has them."""
    ITEM_ENCODERS["threefold"] = Threefold
    config = small_config(backbone=backbone)
    model = dataclasses.replace(config.model, item_encoders=["threefold", "features"], normalize=normalize)
    parallel, collator, objectives = build(context, dataclasses.replace(config, model=model), "ppr-full")
    for parameter in parallel.engine.module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    mine = part(users(), context)
    batch = collator(mine, epoch=0, step=0, global_users=USERS)
    parallel.engine.eval()
    scorer = ModelScorer(parallel.embeddings, parallel.engine, context.device)
    with torch.no_grad():
        items, profiles, _ = parallel.look_up(fetch(batch, parallel.embeddings, objectives).look_up)
        trained = parallel.engine(items.inputs, batch, profiles).user @ items.scored.T
        row_of = {int(user): row for row, user in enumerate(mine.index)}
        rows = np.array([row_of[int(user)] for user in batch.users[batch.user_rows]])
        # Of a longer history training takes the last clicks that end with its last target.
        lengths = batch.history.lengths[batch.user_rows].numpy()
        first = mine.lengths[rows] - 1 - lengths
        whole = first == 0
        instances = Instances(mine, rows[whole], batch.context_lengths.numpy()[whole])
        user = scorer.user_vectors(history_batch(instances, model.max_length))
        return trained.numpy()[whole], (user @ scorer.item_vectors(batch.item_ids).T).numpy()


@pytest.mark.parametrize(("backbone", "normalize"), [("sasrec", False), ("gru4rec", True), ("hstu", True)])
def test_training_and_evaluation_score_alike(backbone: str, normalize: bool) -> None:
    for trained, evaluated in run_ranks(scores, 2, backbone, normalize):
        assert trained.shape == evaluated.shape
        assert 0 < trained.shape[1] <= ITEMS
        assert (np.abs(trained).max() <= 1 + 1e-5) == normalize
        np.testing.assert_allclose(evaluated, trained, rtol=1e-4, atol=1e-5)
