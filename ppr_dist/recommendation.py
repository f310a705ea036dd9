"""The best unseen items of the whole catalogue for users from raw files, on any number of ranks."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from ppr_dist.data.prepare.raw_users import RawUsers, load_raw_users
from ppr_dist.data.raw_ids import item_ids
from ppr_dist.data.stream.instances import Instances, excluded, history_batch
from ppr_dist.data.stream.user_stream import spans_in_order
from ppr_dist.errors import UserError, warn
from ppr_dist.parallel.distributed import DistributedContext, distributed_context, on_main
from ppr_dist.parquet_writer import ID_TYPES, PartWriter, data_set
from ppr_dist.scoring import gather_queries, passes, top_k
from ppr_dist.trained import Trained, load_trained
from ppr_dist.tuning import TUNING_METHODS

if TYPE_CHECKING:
    from ppr_dist.recommend import Arguments


def recommend(arguments: Arguments) -> None:
    """Write the k best unseen items of every user of a file. A collective."""
    with distributed_context() as context, torch.no_grad(), data_set(arguments.out, context) as folder:
        trained = load_trained(arguments.run_dir, arguments.data, context, arguments.cluster, arguments.init)
        if trained.info.method and trained.info.user_vectors and arguments.user_vectors is None:
            raise UserError(f"{arguments.run_dir} was tuned with vectors of users: give --user-vectors")
        work = folder / ".users"
        raw = on_main(
            lambda: load_raw_users(
                arguments.users,
                arguments.interactions,
                trained.data,
                trained.manifest,
                work,
                arguments.memory_limit,
                arguments.user_vectors,
            )
        )
        if context.main:
            _say_what_is_unknown(arguments, raw, trained)
        k = min(arguments.k, trained.manifest.items)
        user_type, item_type = (ID_TYPES[t] for t in (trained.manifest.user_id_type, trained.manifest.item_id_type))
        columns = [("user_id", user_type), ("item_id", item_type), ("rank", pa.int64()), ("score", pa.float32())]
        with PartWriter(folder, context, pa.schema(columns)) as parts:
            _write(parts, raw, trained, context, k, arguments.batch, progress=arguments.progress)
        if context.main:
            shutil.rmtree(work)
            print(f"{arguments.out}: {k} items for each of {raw.users} users", flush=True)


def _say_what_is_unknown(arguments: Arguments, raw: RawUsers, trained: Trained) -> None:
    """Warn of what was in the files and is not in the catalogue, and of users that nothing is known of."""
    if raw.unknown_clicks:
        warn(
            f"{raw.unknown_clicks} of {raw.clicks} clicks are on items the catalogue of "
            f"{trained.data} does not have, and are left out"
        )
    seen = trained.info.catalogue_for(trained.config).profile
    unknown = [f"{name} {n / raw.values[name]:.1%}" for name, n in raw.unknown_values.items() if n and name in seen]
    if unknown and trained.info.uses_profiles:
        warn(
            f"{arguments.users}: of the values given, these shares are not known to "
            f"{trained.data} and are read as unknown: {', '.join(unknown)}"
        )
    if raw.clickless and trained.scorer.needs_clicks:
        warn(
            f"{raw.clickless} users have no clicks and {arguments.run_dir} knows no profiles: "
            "to it all items are alike for them; use a tuned run"
        )
    catalogue = trained.info.catalogue_for(trained.config)
    method = trained.info.method and TUNING_METHODS[trained.info.method]
    for space in method.reads_labels(trained.config, catalogue) if method else ():
        warn(f"{arguments.run_dir} reads labels {space.name!r}, which recommend is not given: to it no user has one")
    if trained.config.model.target_time:
        warn(f"{arguments.run_dir} was trained to see when the next click is made, which is not known here")


def _write(
    parts: PartWriter,
    raw: RawUsers,
    trained: Trained,
    context: DistributedContext,
    k: int,
    batch: int,
    *,
    progress: bool,
) -> None:
    """Score and write this rank's users, ``batch`` at a time. A collective."""
    spans = spans_in_order(raw.users, rank=context.rank, world_size=context.world_size, at_once=batch)
    vocabulary = item_ids(trained.data)
    hidden = None if progress and context.main else True
    for start, stop in tqdm(spans, desc="recommend", disable=hidden):
        ids, users = raw.read(start, stop)
        instances = Instances(users, np.arange(len(users)), users.lengths)
        vectors = trained.scorer.user_vectors(history_batch(instances, trained.config.model.max_length))
        for rows in passes(len(vectors), context.device, gathered=True):
            seen = excluded(instances.select(rows), with_target=False)
            queries = gather_queries(vectors[rows], *seen)
            items, scores = (x.cpu().numpy() for x in top_k(trained.scorer, queries, trained.manifest.items, k))
            user, column = np.nonzero(items >= 0)
            parts.write(
                {
                    "user_id": ids.take(pa.array(rows.start + user)),
                    "item_id": vocabulary.take(pa.array(items[user, column])),
                    "rank": column + 1,
                    "score": scores[user, column],
                }
            )
