"""ppr_dist's training loop as pretrain runs it, or the bare loop of its tower, at the pace benchmarks/peers.py sets."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from pace import Pacer
from ppr_dist.job import Job, make_loader, make_tower

from benchmarks.batches import random_batch
from benchmarks.phases import Phases, watch_training
from ppr_dist import runs
from ppr_dist.batch import Batch
from ppr_dist.checkpoint import Checkpointer, Position
from ppr_dist.config import Config, Loss, Model, Observe, Prompt, Tables, Train
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream.loader import Loader
from ppr_dist.evaluation import evaluate
from ppr_dist.metric_logger import MetricLogger
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.parallel.apply import parallelize
from ppr_dist.parallel.distributed import distributed_context
from ppr_dist.scoring import ModelScorer
from ppr_dist.trainer import seed_everything, train

PACER = Pacer()


@dataclasses.dataclass(frozen=True)
class _Paced(Loader):
    """A loader that notes each step when the next batch is asked for."""

    phases: Phases = dataclasses.field(kw_only=True)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[int, Batch]]:
        for step, batch in self.phases.data(super().epoch(epoch, first_step)):
            yield step, batch
            PACER.tick(int(batch.total_targets))


def main() -> None:
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    config = Config(
        model=Model(
            dim=options["dim"],
            blocks=options["blocks"],
            heads=options["heads"],
            max_length=options["length"],
            feed_forward=1,
            dropout=options["dropout"],
        ),
        tables=Tables(lr=options["table_lr"]),
        loss=Loss(kind=options["loss"], uniform_negatives=options["negatives"], in_batch_per_user=0),
        train=Train(global_batch_size=options["batch"], lr=options["lr"], epochs=10**6),
        observe=Observe(progress=False),
    )
    if options["bare"]:
        _bare(config)
    else:
        _train(config, Path(options["data"]), Path("ppr_dist-run"))


def _train(config: Config, data: Path, run: Path) -> None:
    with distributed_context() as ranks:
        manifest = load_manifest(data)
        info = runs.describe("pretrain", None, data, manifest)
        job = Job(data=data, run=run, resume=False, manifest=manifest, info=info, split="pretrain")
        plain = make_loader(job, config, ranks)
        torch.manual_seed(0)
        parallel = parallelize(info.table_sizes(config), make_tower(info, config), config, ranks)
        seed_everything(0, ranks.rank)
        scorer = ModelScorer(parallel.tables, parallel.engine, ranks.device)

        def ndcg() -> float:
            parallel.engine.eval()
            found = evaluate(
                scorer, data, manifest, ranks, task="validation", protocol="full", max_length=config.model.max_length
            )
            parallel.engine.train()
            return float(found["ndcg@10"])

        phases = watch_training(parallel)
        loader = _Paced(plain.stream, plain.collator, plain.workers, phases=phases)
        PACER.parts = lambda: phases.seconds
        run.mkdir(exist_ok=True)
        logger = MetricLogger(run, config, ranks, total_steps=10**9, first_step=0, job="benchmark")
        position = Position(step=0, stream=plain.stream.state(), world_size=1)
        PACER.ready(ndcg)
        train(parallel, loader, config, ranks, logger, Checkpointer(run, 1), position)


def _bare(config: Config) -> None:
    """The same tower on random vectors, every slot real: forward, backward, AdamW; no data, tables, loss or engine."""
    torch.manual_seed(0)
    tower = SequentialModel(config.model, Prompt(), attributes=0, with_prompt=False, with_profile_encoder=False)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=config.train.lr, fused=True)
    batch = random_batch(config, 4096, 0, shortest=config.model.max_length)
    items = torch.randn(len(batch.item_ids), config.model.dim)
    PACER.ready(lambda: 0.0)
    while True:
        user, _ = tower(items, batch, None, None)
        user.sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        PACER.tick(len(user))


if __name__ == "__main__":
    main()
