"""RecTools' SASRec (SASRecModel, fitted by Lightning) at the pace benchmarks.peers sets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from benchmarks.peers.pace import HOLD_OUT, Log, Pacer, validation_ndcg


def main() -> None:
    _Paced.pacer = Pacer()
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    seed_everything(0)
    log, length = Log(Path(options["log"])), options["length"]
    model = SASRecModel(
        n_blocks=options["layers"],
        n_heads=options["heads"],
        n_factors=options["dim"],
        dropout_rate=options["dropout"],
        session_max_len=length,
        loss={"bce": "BCE", "softmax": "sampled_softmax"}[options["loss"]],
        n_negatives=options["negatives"],
        lr=options["lr"],
        batch_size=options["batch"],
        dataloader_num_workers=0,
        get_trainer_func=_trainer,
    )

    def evaluate() -> float:
        torch_model, known = model.torch_model, model.data_preparator.item_id_map
        torch_model.eval()
        with torch.no_grad():
            items = torch_model.item_model.get_all_embeddings()

        def encode(histories: list[np.ndarray]) -> torch.Tensor:
            x = np.zeros((len(histories), length), np.int64)
            for row, history in zip(x, histories, strict=True):
                row[-min(length, len(history)) :] = history[-length:]
            return torch_model.encode_sessions({"x": torch.from_numpy(x)}, items)[:, -1]

        numbers = pd.Series(known.to_internal).reindex(np.arange(log.items), fill_value=0).to_numpy(np.int64)
        ndcg = validation_ndcg(log, numbers, items, encode)
        torch_model.train()
        return ndcg

    _Paced.evaluate = staticmethod(evaluate)
    model.fit(Dataset.construct(interactions(log)))


def interactions(log: Log) -> pd.DataFrame:
    """The clicks to train on, as RecTools reads them."""
    lengths = np.diff(log.offsets)
    position = np.arange(len(log.clicks)) - np.repeat(log.offsets[:-1], lengths)
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(log)), lengths),
            Columns.Item: log.clicks,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(position, unit="s"),
        }
    )
    return frame[position < np.repeat(lengths, lengths) - HOLD_OUT]


class _Paced(Callback):
    # Of the class, because the model copies its trainer with all callbacks.
    pacer: Pacer
    evaluate: Any

    def on_train_start(self, *_: Any) -> None:
        self.pacer.ready(self.evaluate)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.pacer.tick(int((batch["y"] != 0).sum()))


def _trainer() -> Trainer:
    return quiet_trainer(_Paced(), 10**9)


def quiet_trainer(callback: Callback, max_epochs: int) -> Trainer:
    """On a CPU, saying and saving nothing."""
    return Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


if __name__ == "__main__":
    main()
