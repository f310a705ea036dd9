"""ppr_dist's pretrain, gone on with from one number of epochs to the next."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import torch

from benchmarks.rivals.ranks import Histories, Ranks, in_turn
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.data.stream.users import Users
from ppr_dist.library import pretrain
from ppr_dist.parallel.distributed import distributed_context
from ppr_dist.scoring import Scorer
from ppr_dist.trained import load_trained


def train(ranks: Ranks) -> None:
    options = ranks.options
    run, data = Path(options["out"]).with_suffix(".run"), Path(options["data"])
    shutil.rmtree(run, ignore_errors=True)
    section = options["backbone"]
    sections = {
        "model": {
            "backbone": section,
            "dim": options["dim"],
            "max_length": options["length"],
            "dropout": options["dropout"],
        },
        section: options["ppr_dist"],
        "tables": {"optimizer": "adam", "lr": options["lr"]},
        "stream": {"shuffle_shards": 64},
        "bce": {"uniform_negatives": 1},
        "logging": {"progress": False, "parts_every": 0},
    }
    training = {
        "objectives": [{"bce": "bce", "softmax": "full_softmax"}[options["loss"]]],
        "global_batch_size": options["batch"],
        "lr": options["lr"],
        "max_grad_norm": 0,
        "seed": options["seed"],
        "keep_checkpoints": 1,
        "dry_step": False,
    }
    for epoch in options["epochs"]:
        pretrain(
            data=data, run_dir=run, resume=epoch != options["epochs"][0], train=training | {"epochs": epoch}, **sections
        )
        with distributed_context() as context, torch.no_grad():
            trained = load_trained(run, data, context)
            ((_, vectors),) = trained.scorer.own_items(ranks.log.items)

            ranks.note(epoch, vectors, functools.partial(_encode, trained.scorer, options["length"]))
            dense = sum(p.numel() for p in trained.scorer.model.parameters())
    ranks.save(dense + vectors.numel())
    shutil.rmtree(run)


def _encode(scorer: Scorer, length: int, histories: Histories) -> torch.Tensor:
    lengths = np.array([len(history) for history in histories])
    users = Users(
        index=np.arange(len(histories)),
        items=np.concatenate(histories),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        attributes=np.zeros((0, len(histories)), np.int64),
    )
    return scorer.user_vectors(history_batch(Instances(users, np.arange(len(users)), lengths), length))


if __name__ == "__main__":
    in_turn(train)
