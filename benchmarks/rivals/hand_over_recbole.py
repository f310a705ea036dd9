"""RecBole's GRU4Rec and BERT4Rec, over item vectors from outside."""

from __future__ import annotations

import sys
import types
from typing import Any

import torch
from recbole.config import Config
from recbole.model.sequential_recommender import BERT4Rec, GRU4Rec
from torch import Tensor, nn

from benchmarks.rivals.functions import DIM, EPS, HEADS, HIDDEN, ITEMS, LAYERS, LENGTH, hand_over, shake

FOLDER = sys.argv.pop(1)  # RecBole reads the command line too


def _config(name: str, **more: Any) -> Config:
    shared = {"MAX_ITEM_LIST_LENGTH": LENGTH, "loss_type": "CE", "train_neg_sample_args": None, "use_gpu": False}
    return Config(model=name, dataset="none", config_dict={**shared, "state": "ERROR", **more})


CATALOGUE: Any = types.SimpleNamespace(num=lambda field: ITEMS + 1)
"""All that a model asks of a data set: how many items, one for padding."""


def _with_items(model: Any, rows: Tensor) -> None:
    """Let the model look items up in ``rows``, whose gradient is wanted."""
    model.item_embedding = lambda ids: rows[ids]


def gru4rec(histories: Tensor, items: Tensor) -> tuple[dict[str, nn.Module], Tensor]:
    model = GRU4Rec(_config("GRU4Rec", num_layers=1, embedding_size=DIM, hidden_size=HIDDEN), CATALOGUE)
    shake(model)
    del model.item_embedding
    _with_items(model, torch.cat([torch.zeros(1, DIM), items]))
    # Half of the histories shorter, and padded.
    lengths = torch.full((len(histories),), LENGTH)
    lengths[::2] = LENGTH // 2
    real = torch.arange(LENGTH) < lengths[:, None]
    return {"": model}, model((histories + 1) * real, lengths)


def bert4rec(histories: Tensor, items: Tensor) -> tuple[dict[str, nn.Module], Tensor]:
    sizes = {"n_layers": LAYERS, "n_heads": HEADS, "hidden_size": DIM, "inner_size": 4 * DIM}
    asked = {"MAX_ITEM_LIST_LENGTH": LENGTH + 1, "hidden_act": "gelu", "layer_norm_eps": EPS, "mask_ratio": 0.2}
    model = BERT4Rec(_config("BERT4Rec", **sizes, **asked), CATALOGUE)
    shake(model)
    mask = nn.ParameterList([model.item_embedding.weight[model.mask_token].detach()])
    del model.item_embedding
    _with_items(model, torch.cat([torch.zeros(1, DIM), items, mask[0][None]]))
    # Half of the histories shorter; the mask stands behind each, then padding.
    lengths = torch.full((len(histories),), LENGTH)
    lengths[::2] = LENGTH // 2
    x = torch.zeros(len(histories), LENGTH + 1, dtype=torch.int64)
    real = torch.arange(LENGTH) < lengths[:, None]
    x[:, :LENGTH] = (histories + 1) * real
    x[torch.arange(len(x)), lengths] = model.mask_token
    return {"": model, "mask.": mask}, model(x)[torch.arange(len(x)), lengths]


if __name__ == "__main__":
    sys.argv.append(FOLDER)
    hand_over({"GRU4Rec": gru4rec, "BERT4Rec": bert4rec})
