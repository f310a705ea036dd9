"""One step before training, forward and backward without an update: what does not fit or match shows at once.

Weights, optimizers and random streams are as before to the bit. Rows are looked up without a gradient and made leaves
of the graph, so that the backward pass ends at them: FBGEMM would update the tables inside it. Gradients are returned
and not accumulated (``torch.autograd.grad``), so that DeepSpeed's hooks, which would reduce them, never run.
"""

from __future__ import annotations

import numpy as np
import torch

from ppr_dist.batch import Batch
from ppr_dist.data.stream.loader import Loader
from ppr_dist.data.stream.users import prepared_users, read_shards
from ppr_dist.errors import UserError
from ppr_dist.objectives.base import Objective
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.step_loss import start, step_loss


def dry_step(
    parallel: Parallel, batch: Batch, objectives: dict[str, Objective], context: DistributedContext, precision: str
) -> None:
    """Forward and backward of ``batch``, the largest that is to be feared. A collective.

    ``precision``: train.precision. Raises :class:`UserError`, marked with this rank, where memory does not suffice.
    """
    try:
        with torch.random.fork_rng(devices=[context.device] if context.device.type == "cuda" else []):
            _forward_backward(parallel, batch.to(context.device), objectives, precision)
    except (torch.OutOfMemoryError, MemoryError) as error:
        clicks = int(batch.history.lengths.max()) + 1
        failed = UserError(
            f"out of memory in the dry step of {len(batch.users)} users per rank of {clicks} clicks "
            f"({str(error).splitlines()[0]}); lower train.global_batch_size or loss.logit_chunk, take more ranks, or, "
            "where the longest histories never meet in one batch, leave it out: --train.dry_step false"
        )
        failed.rank = context.rank  # type: ignore[attr-defined]
        raise failed from error
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # what is logged is training's own


def largest_batch(loader: Loader) -> Batch:
    """As many users as a rank ever has, those with the longest histories in the shard that has most clicks."""
    stream = loader.stream
    shard = max(stream.shards, key=lambda shard: shard.events)
    table = read_shards(stream.folder, [shard], stream.manifest)
    found = prepared_users(table, stream.manifest)
    most = -(-stream.batch // stream.world_size)
    users = found.take(np.resize(np.argsort(-found.lengths, kind="stable"), most))
    return loader.collator(users, epoch=0, step=0, global_users=most * stream.world_size)


def _forward_backward(parallel: Parallel, batch: Batch, objectives: dict[str, Objective], precision: str) -> None:
    """:func:`ppr_dist.trainer.train_step`, with the two differences above."""
    module, embeddings = parallel.engine.module, parallel.embeddings
    module.train()
    fetched = fetch(batch, embeddings, objectives)
    with torch.no_grad():
        rows, profiles, labels = embeddings.look_up(fetched.look_up)
    leaves = [*profiles.values(), *labels.values(), *([rows["id"]] if embeddings.train_items and "id" in rows else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    items = parallel.item_vectors(rows)
    started = start(objectives, batch, items.scored, labels)
    # Not the engine's own call: it would hang hooks on what comes out.
    with torch.autocast(batch.users.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        encoded = module(items.inputs, batch, profiles)
    loss = step_loss(objectives, fetched, items.scored, labels, encoded, started)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    torch.autograd.grad(loss.backward, [*leaves, *parameters], allow_unused=True)
