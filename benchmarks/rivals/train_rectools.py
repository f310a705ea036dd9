"""RecTools' SASRecModel, BERT4RecModel or HSTUModel, fitted by Lightning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, HSTUModel, SASRecModel
from rectools.models.nn.transformers.constants import MASKING_VALUE

from benchmarks.peers.run_rectools import interactions, quiet_trainer
from benchmarks.rivals.ranks import Histories, Ranks, in_turn

MODELS = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel, "hstu": HSTUModel}


class _Ranked(Callback):
    """Ranks after the epochs that are asked for."""

    # Global, because the model copies its trainer with all callbacks.
    ranks: Ranks
    model: Any

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        epoch, ranks = trainer.current_epoch + 1, _Ranked.ranks
        if not ranks.asked(epoch):
            return
        net, data = module.torch_model, _Ranked.model.data_preparator
        mask = data.extra_token_ids.get(MASKING_VALUE)
        length = data.session_max_len
        numbers = pd.Series(data.item_id_map.to_internal).reindex(np.arange(ranks.log.items), fill_value=0).to_numpy()
        net.eval()
        with torch.no_grad():
            items = net.item_model.get_all_embeddings()

        def encode(histories: Histories) -> torch.Tensor:
            x = np.zeros((len(histories), length), np.int64)
            for row, history in zip(x, histories, strict=True):
                asked = [*numbers[history], *([] if mask is None else [mask])][-length:]
                row[-len(asked) :] = asked
            return net.encode_sessions({"x": torch.from_numpy(x)}, items)[:, -1]

        ranks.note(epoch, items[torch.from_numpy(numbers)], encode)
        net.train()


def train(ranks: Ranks) -> None:
    _Ranked.ranks, options = ranks, ranks.options
    seed_everything(options["seed"])
    name = options["backbone"]
    _Ranked.model = model = MODELS[name](
        n_blocks=options["layers"],
        n_heads=options["heads"],
        n_factors=options["dim"],
        dropout_rate=options["dropout"],
        session_max_len=options["length"] + (name == "bert4rec"),  # the mask behind the history is one of them
        loss={"bce": "BCE", "softmax": "softmax"}[options["loss"]],
        n_negatives=1,
        lr=options["lr"],
        batch_size=options["batch"],
        dataloader_num_workers=0,
        get_trainer_func=_trainer,
        **options["other"],
    )
    model.fit(Dataset.construct(interactions(ranks.log)))
    ranks.save(sum(p.numel() for p in model.torch_model.parameters()))


def _trainer() -> Trainer:
    return quiet_trainer(_Ranked(), max(_Ranked.ranks.options["epochs"]))


if __name__ == "__main__":
    in_turn(train)
