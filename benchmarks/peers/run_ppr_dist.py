"""ppr_dist's training loop as pretrain runs it, or the bare loop of its model, at the pace benchmarks.peers sets."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.batches import pretraining, random_batch
from benchmarks.peers.pace import Pacer
from ppr_dist.batch import Batch
from ppr_dist.build_model import untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.checkpoint.checkpointer import Checkpointer
from ppr_dist.checkpoint.position import Position
from ppr_dist.config import Config, Logging, Model, Tables, Train
from ppr_dist.data.stream.loader import Loader
from ppr_dist.fit import make_validation
from ppr_dist.model.backbones import sasrec
from ppr_dist.objectives import bce, softmax
from ppr_dist.parallel.apply import parallelize
from ppr_dist.parallel.distributed import distributed_context
from ppr_dist.tracking.metric_logger import MetricLogger
from ppr_dist.tracking.step_parts import StepParts
from ppr_dist.trainer import train


@dataclasses.dataclass(frozen=True)
class _Paced(Loader):
    """A loader that notes each step when the next batch is asked for."""

    pacer: Pacer = dataclasses.field(kw_only=True)
    parts: StepParts = dataclasses.field(kw_only=True)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[int, Batch]]:
        for step, batch in self.parts.data(super().epoch(epoch, first_step)):
            yield step, batch
            self.pacer.tick(len(batch.targets))


def main() -> None:
    pacer = Pacer()
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    config = Config(
        model=Model(dim=options["dim"], max_length=options["length"], dropout=options["dropout"]),
        tables=Tables(lr=options["table_lr"]),
        train=Train(objectives=[options["loss"]], global_batch_size=options["batch"], lr=options["lr"], epochs=10**6),
        logging=Logging(progress=False, parts_every=0),
        parts={
            "sasrec": sasrec.Settings(layers=options["layers"], heads=options["heads"], ffn_multiple=1),
            "softmax": softmax.Settings(uniform_negatives=options["negatives"], in_batch_per_user=0),
            "bce": bce.Settings(uniform_negatives=options["negatives"]),
        },
    )
    if options["bare"]:
        _bare(config, pacer)
    else:
        _train(config, Path(options["data"]), Path("ppr_dist-run"), pacer)


def _train(config: Config, data: Path, folder: Path, pacer: Pacer) -> None:
    with distributed_context() as context:
        run, plain = pretraining(data, config, context)
        torch.manual_seed(0)
        model, sizes = untuned_model(config, run.info.catalogue_for(config)), run.info.table_sizes(config)
        parallel = parallelize(sizes, model, config, context)
        validation = make_validation(run, parallel)

        def ndcg() -> float:
            parallel.engine.eval()
            found = validation.measure()["ndcg@10"]
            parallel.engine.train()
            return found

        parts = StepParts(parallel)
        parts.start()
        loader = _Paced(plain.stream, plain.collator, plain.workers, pacer=pacer, parts=parts)
        pacer.parts = lambda: parts.seconds
        folder.mkdir(exist_ok=True)
        logger = MetricLogger(folder, config, context, parallel, total_steps=10**9, first_step=0, stage="benchmark")
        position = Position(step=0, stream=plain.stream.state(), world_size=1)
        pacer.ready(ndcg)
        objectives = plain.collator.objectives
        train(parallel, loader, objectives, config, context, logger, Checkpointer(folder, 1), position)


def _bare(config: Config, pacer: Pacer) -> None:
    """The same model on random vectors, every slot real: forward, backward, AdamW; no data, tables, loss or engine."""
    torch.manual_seed(0)
    items = 4096
    model = untuned_model(config, Catalogue(items=items, attributes={}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, fused=True)
    batch = random_batch(config, items, 0, shortest=config.model.max_length)
    vectors = torch.randn(len(batch.item_ids), config.model.dim)
    pacer.ready(lambda: 0.0)
    while True:
        user = model(vectors, batch, {}).user
        user.sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pacer.tick(len(user))


if __name__ == "__main__":
    main()
