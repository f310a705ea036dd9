"""What a model is to beat (``evaluate --baseline``): scorers without training.

Shapes: n users of a batch, P instances, T clicks of their histories, N items, F numbers of an item's features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist import runs
from ppr_dist.batch import Batch
from ppr_dist.data.item_data import read_item_data
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.errors import UserError
from ppr_dist.parallel.collectives import all_sum
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.scoring import Scorer, looked_up_in_turn


def baseline_scorer(name: str, data: Path, manifest: Manifest, context: DistributedContext, at_once: int) -> Scorer:
    """The scorer of ``--baseline name``; ``at_once``: users each rank reads at once. A collective."""
    if name == "content":
        return ContentScorer(data, manifest, context.device)
    if name == "popularity":
        counts = torch.from_numpy(runs.item_counts(data, "train_count").astype(np.float32))
    else:
        counts = _first_clicks(data, manifest, context, at_once)
    return PopularityScorer(counts.to(context.device), context.device)


@dataclasses.dataclass(frozen=True)
class PopularityScorer:
    """Every user gets the same items, those with the highest counts: the baseline to beat."""

    counts: Tensor
    """Of each item, such as its clicks in training, float32 [N]."""
    device: torch.device
    needs_clicks: bool = False

    def user_vectors(self, batch: Batch) -> Tensor:
        return torch.ones(len(batch.user_rows), 1, device=self.device)

    def item_vectors(self, ids: Tensor) -> Tensor:
        return self.counts[ids][:, None]

    def own_items(self, items: int) -> Iterator[tuple[int, Tensor]]:
        return looked_up_in_turn(self, items)


class ContentScorer:
    """The cosine of an item's features and the mean of the features of the clicks before it (the most recent
    ``model.max_length``).

    Several features are joined. An item of which nothing is known scores 0.
    """

    needs_clicks = True

    def __init__(self, data: Path, manifest: Manifest, device: torch.device) -> None:
        """Raises :class:`UserError` where the data has no features."""
        names = [name for name, of in manifest.item_data.items() if of.kind == "features"]
        if not names:
            raise UserError(f"--baseline content: {data} has no features of items; prepare it with --item-features")
        self.device, self._features = device, list(read_item_data(data, manifest, names).values())

    def user_vectors(self, batch: Batch) -> Tensor:
        history = batch.history
        user = torch.repeat_interleave(torch.arange(len(history.lengths)), history.lengths)
        clicks = self._rows(batch.item_ids)[history.items]  # [T, F]
        # Each history is asked after all of it (history_batch); of a mean the cosine is that of the sum.
        sums = clicks.new_zeros(len(history.lengths), clicks.shape[1]).index_add_(0, user, clicks)
        return F.normalize(sums[batch.user_rows], dim=1).to(self.device)

    def item_vectors(self, ids: Tensor) -> Tensor:
        return F.normalize(self._rows(ids.cpu()), dim=1).to(self.device)

    def own_items(self, items: int) -> Iterator[tuple[int, Tensor]]:
        return looked_up_in_turn(self, items)

    def _rows(self, ids: Tensor) -> Tensor:
        """Features of items int64 [n], read from disk: float32 [n, F]."""
        found = [array[ids.numpy()] for array in self._features]
        return torch.from_numpy(np.concatenate(found, axis=1).astype(np.float32))


def _first_clicks(data: Path, manifest: Manifest, context: DistributedContext, at_once: int) -> Tensor:
    """How often each item was the first click of a user whom training may see, float32 [N]. A collective."""
    counts = torch.zeros(manifest.items, dtype=torch.int64)
    for split in ("pretrain", "tune-train"):
        if not manifest.split(split).users:
            continue
        _, parts = users_in_order(
            data, manifest, split, rank=context.rank, world_size=context.world_size, at_once=at_once
        )
        # A warm user's last two clicks are targets of validation and test.
        fewest = 3 if split == "pretrain" else 1
        for users in parts:
            first = users.items[users.offsets[:-1][users.lengths >= fewest]]
            counts += torch.from_numpy(np.bincount(first, minlength=len(counts)))
    return all_sum(counts.to(context.device)).float()
