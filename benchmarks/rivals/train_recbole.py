"""RecBole's GRU4Rec, by its Trainer: one target of each sample, a sample of every context."""

from __future__ import annotations

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import GRU4Rec
from recbole.trainer import Trainer
from recbole.utils import init_seed

from benchmarks.peers.run_recbole import FOLDER, SETTINGS, numbers_of, write
from benchmarks.rivals.ranks import Histories, Ranks, in_turn


def train(ranks: Ranks) -> None:
    options, log = ranks.options, ranks.log
    length = options["length"]
    write(log, FOLDER)
    config = Config(
        model="GRU4Rec",
        dataset=FOLDER.name,
        config_dict={
            **SETTINGS,
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "MAX_ITEM_LIST_LENGTH": length,
            "num_layers": options["layers"],
            "embedding_size": options["dim"],
            "hidden_size": options["ppr_dist"]["hidden"],
            "dropout_prob": options["dropout"],
            "learning_rate": options["lr"],
            "train_batch_size": options["batch"] * length,
        },
    )
    init_seed(options["seed"], reproducibility=False)
    dataset = create_dataset(config)
    train_data, *_ = data_preparation(config, dataset)
    model = GRU4Rec(config, train_data.dataset)
    numbers = numbers_of(dataset, log)

    def encode(histories: Histories) -> torch.Tensor:
        x = np.zeros((len(histories), length), np.int64)
        lengths = np.array([min(length, len(history)) for history in histories])
        for row, history, own in zip(x, histories, lengths, strict=True):
            row[:own] = numbers[history[-own:]]
        return model(torch.from_numpy(x), torch.from_numpy(lengths))

    trainer = Trainer(config, model)
    for epoch in range(max(options["epochs"])):
        trainer._train_epoch(train_data, epoch, show_progress=False)
        if ranks.asked(epoch + 1):
            model.eval()
            ranks.note(epoch + 1, model.item_embedding.weight[torch.from_numpy(numbers)], encode)
            model.train()
    ranks.save(sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    in_turn(train)
