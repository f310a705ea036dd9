"""RecBole's SASRec, trained by its Trainer, at the pace benchmarks.peers sets.

RecBole makes a sample of every context and trains one target of each. It has no binary cross-entropy and no
sampled softmax: the first is added here in five lines over its own sampled negatives; for the second stands its softmax
over the whole catalogue.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

from benchmarks.peers.pace import Log, Pacer, validation_ndcg


class SASRecBCE(SASRec):
    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        user = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        positive = (user * self.item_embedding(interaction[self.POS_ITEM_ID])).sum(-1)
        negative = (user * self.item_embedding(interaction[self.NEG_ITEM_ID])).sum(-1)
        return (F.softplus(-positive) + F.softplus(negative)).mean()


class _Paced:
    """A loader that notes each step when the next batch is asked for."""

    def __init__(self, loader: Any, pacer: Pacer) -> None:
        self.loader, self.pacer = loader, pacer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for interaction in self.loader:
            yield interaction
            self.pacer.tick(len(interaction))


FOLDER = Path("recbole-log")
SETTINGS = {
    "data_path": ".",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "worker": 0,
    "use_gpu": False,
    "state": "ERROR",
    "checkpoint_dir": "recbole-saved",
}
"""What is the same of every model."""


def main() -> None:
    pacer = Pacer()
    options = json.loads(sys.argv.pop(1))  # RecBole reads the command line too
    torch.set_num_threads(options["threads"])
    log, length = Log(Path(options["log"])), options["length"]
    write(log, FOLDER)
    bce = options["loss"] == "bce"
    config = Config(
        model="SASRec",
        dataset=FOLDER.name,
        config_dict={
            **SETTINGS,
            "train_neg_sample_args": {"distribution": "uniform", "sample_num": options["negatives"]} if bce else None,
            "loss_type": "BPR" if bce else "CE",
            "MAX_ITEM_LIST_LENGTH": length,
            "n_layers": options["layers"],
            "n_heads": options["heads"],
            "hidden_size": options["dim"],
            "inner_size": options["dim"],
            "hidden_dropout_prob": options["dropout"],
            "attn_dropout_prob": options["dropout"],
            "learning_rate": options["lr"],
            "train_batch_size": options["batch"],
            "epochs": 10**6,
        },
    )
    init_seed(0, reproducibility=False)
    dataset = create_dataset(config)
    train_data, *_ = data_preparation(config, dataset)
    model = (SASRecBCE if bce else SASRec)(config, train_data.dataset)
    numbers = numbers_of(dataset, log)

    def encode(histories: list[np.ndarray]) -> torch.Tensor:
        x = np.zeros((len(histories), length), np.int64)
        lengths = np.array([min(length, len(history)) for history in histories])
        for row, history in zip(x, histories, strict=True):
            row[: min(length, len(history))] = history[-length:]
        return model(torch.from_numpy(x), torch.from_numpy(lengths))

    def evaluate() -> float:
        model.eval()
        ndcg = validation_ndcg(log, numbers, model.item_embedding.weight, encode)
        model.train()
        return ndcg

    trainer = Trainer(config, model)
    pacer.ready(evaluate)
    trainer.fit(_Paced(train_data, pacer), saved=False, verbose=False, show_progress=False)


def numbers_of(dataset: Any, log: Log) -> np.ndarray:
    """RecBole's number of each of the log's items, 0 of those that it does not hold."""
    numbers, seen = np.zeros(log.items, np.int64), np.unique(log.clicks)
    numbers[seen] = dataset.token2id("item_id", seen.astype(str))
    return numbers


def write(log: Log, folder: Path) -> None:
    """The log as RecBole reads it, all clicks."""
    folder.mkdir(exist_ok=True)
    with (folder / f"{folder.name}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(len(log)):
            file.writelines(f"{user}\t{item}\t{position}\n" for position, item in enumerate(log.of(user).tolist()))


if __name__ == "__main__":
    main()
