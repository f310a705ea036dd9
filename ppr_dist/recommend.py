"""``python -m ppr_dist.recommend``: the best unseen items of the whole catalogue for users from raw files."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from tqdm import tqdm

from ppr_dist import cli, options
from ppr_dist.errors import UserError, warn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    run_dir: Path
    """A pre-trained or tuned run."""
    users: Path
    """Parquet or CSV: user_id and profile columns. Each row gets recommendations; the user may be new."""
    out: Path
    """Parquet data set to write, a folder of part files: user_id, item_id, rank (1 = best), score; in the order of
    the users file."""
    interactions: Path | None = None
    """Parquet or CSV with the users' clicks; users without any are served from the profile alone."""
    data: Path | None = None
    """Folder that prepare wrote; by default the one the run was trained on."""
    cluster: Path | None = None
    """Cluster file (sharding/*.yaml) to place the tables by; by default the run's own, else what this machine has."""
    k: int = 10
    """Items per user."""
    batch: int = 4096
    """Users each rank reads at once."""
    memory_limit: str = "1GB"
    """Memory DuckDB may use, on rank 0, to read the raw files, before it spills beside the output."""
    progress: bool = True
    """Show a progress bar on rank 0."""


def main(argv: list[str] | None = None) -> Path:
    """Write the recommendations; return where they are."""
    (arguments,), _ = options.parse("ppr_dist.recommend", argv, [Arguments])
    if arguments.k < 1 or arguments.batch < 1:
        raise UserError("--k and --batch must be at least 1")
    # Imported once the options are read: torch, TorchRec and DeepSpeed take seconds, and --help none of them.
    import numpy as np
    import pyarrow as pa
    import torch

    from ppr_dist.data.prepare.raw_users import load_raw_users
    from ppr_dist.data.raw_ids import item_ids
    from ppr_dist.data.stream.instances import Instances, excluded, history_batch
    from ppr_dist.data.stream.user_stream import spans_in_order
    from ppr_dist.parallel.distributed import distributed_context, on_main
    from ppr_dist.parts import ID_TYPES, PartWriter, data_set
    from ppr_dist.scoring import gather_queries, passes, top_k
    from ppr_dist.trained import load_trained

    with distributed_context() as context, torch.no_grad(), data_set(arguments.out, context) as folder:
        trained = load_trained(arguments.run_dir, arguments.data, context, arguments.cluster)
        work = folder / ".users"
        raw = on_main(
            lambda: load_raw_users(
                arguments.users, arguments.interactions, trained.data, trained.manifest, work, arguments.memory_limit
            )
        )
        if context.main and raw.unknown_clicks:
            warn(
                f"{raw.unknown_clicks} of {raw.clicks} clicks are on items the catalogue of "
                f"{trained.data} does not have, and are left out"
            )
        unknown = [f"{name} {n / raw.values[name]:.1%}" for name, n in raw.unknown_values.items() if n]
        if context.main and unknown and trained.info.uses_profiles:
            warn(
                f"{arguments.users}: of the values given, these shares are not known to "
                f"{trained.data} and are read as unknown: {', '.join(unknown)}"
            )
        if context.main and raw.clickless and not trained.info.uses_profiles:
            warn(
                f"{raw.clickless} users have no clicks and {arguments.run_dir} knows no profiles: "
                "to it all items are alike for them; use a tuned run"
            )
        k = min(arguments.k, trained.manifest.items)
        spans = spans_in_order(raw.users, rank=context.rank, world_size=context.world_size, at_once=arguments.batch)
        vocabulary = item_ids(trained.data)
        user_type, item_type = (ID_TYPES[t] for t in (trained.manifest.user_id_type, trained.manifest.item_id_type))
        schema = pa.schema(
            [("user_id", user_type), ("item_id", item_type), ("rank", pa.int64()), ("score", pa.float32())]
        )
        with PartWriter(folder, context, schema) as parts:
            hidden = None if arguments.progress and context.main else True
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
        if context.main:
            shutil.rmtree(work)
            print(f"{arguments.out}: {k} items for each of {raw.users} users", flush=True)
    return arguments.out


if __name__ == "__main__":
    cli.run(main)
