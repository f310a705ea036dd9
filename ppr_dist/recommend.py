"""``python -m ppr_dist.recommend``: the best unseen items of the whole catalogue for users from raw files."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from ppr_dist import cli
from ppr_dist.config import parse
from ppr_dist.data.instances import Instances, excluded, history_batch
from ppr_dist.data.raw_users import RawUsers, read_raw_users
from ppr_dist.data.users import Int64
from ppr_dist.errors import UserError
from ppr_dist.parallel.mesh import mesh, on_main
from ppr_dist.scoring import gather_queries, top_k
from ppr_dist.trained import load_trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    run_dir: Path
    """A pre-trained or tuned run."""
    users: Path
    """Parquet or CSV: user_id and profile columns. Each row gets recommendations; the user may be new."""
    out: Path
    """Parquet file to write: user_id, item_id, rank, score."""
    interactions: Path | None = None
    """Parquet or CSV with the users' clicks; users without any are served from the profile alone."""
    data: Path | None = None
    """Folder that prepare wrote; by default the one the run was trained on."""
    k: int = 10
    """Items per user."""
    batch: int = 8192
    """Users ranked in one pass over the catalogue, summed over ranks."""
    progress: bool = True
    """Show a progress bar on rank 0."""


def main(argv: list[str] | None = None) -> None:
    arguments, _ = parse("ppr_dist.recommend", argv, Arguments, with_config=False)
    if arguments.k < 1 or arguments.batch < 1:
        raise UserError("--k and --batch must be at least 1")
    with mesh() as ranks, torch.no_grad():
        trained = load_trained(arguments.run_dir, arguments.data, ranks)
        raw = on_main(lambda: read_raw_users(arguments.users, arguments.interactions, trained.data, trained.manifest))
        if ranks.main and raw.unknown_clicks:
            print(
                f"ppr_dist: warning: {raw.unknown_clicks} of {raw.clicks} clicks are on items the catalogue of "
                f"{trained.data} does not have, and are left out",
                file=sys.stderr,
            )
        clickless = int((raw.users.lengths == 0).sum())
        if ranks.main and clickless and not trained.info.with_tower:
            print(
                f"ppr_dist: warning: {clickless} users have no clicks and {arguments.run_dir} knows no profiles: to it "
                "all items are alike for them; use a tuned run",
                file=sys.stderr,
            )
        k = min(arguments.k, trained.manifest.items)
        found: list[tuple[Int64, np.ndarray]] = []
        starts = range(0, len(raw.users), arguments.batch)
        for start in tqdm(starts, desc="recommend", disable=None if arguments.progress and ranks.main else True):
            size = min(arguments.batch, len(raw.users) - start)
            owner = start + np.arange(
                ranks.rank * size // ranks.world_size, (ranks.rank + 1) * size // ranks.world_size
            )
            prefix = raw.users.lengths[owner]
            instances = Instances(raw.users, owner, prefix)
            vectors = trained.scorer.user_vectors(history_batch(instances, trained.config.model.max_length))
            queries = gather_queries(vectors, *excluded(instances, with_target=False))
            items, scores = top_k(trained.scorer, queries, trained.manifest.items, k)
            found.append((items.cpu().numpy(), scores.cpu().numpy()))
        on_main(lambda: _write(arguments.out, raw, found, trained.data))
        if ranks.main:
            print(f"{arguments.out}: {k} items for each of {len(raw.users)} users", flush=True)


def _write(path: Path, raw: RawUsers, found: list[tuple[Int64, np.ndarray]], data: Path) -> None:
    """Write one row per user and rank, best first, atomically."""
    items = np.concatenate([item for item, _ in found])
    scores = np.concatenate([score for _, score in found])
    row, column = np.nonzero(items >= 0)
    vocabulary = pq.read_table(data / "items.parquet", columns=["item_id"]).column(0)
    table = {
        "user_id": raw.ids.take(pa.array(row)),
        "item_id": vocabulary.take(pa.array(items[row, column])),
        "rank": pa.array(column + 1, pa.int64()),
        "score": pa.array(scores[row, column], pa.float32()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.table(table), partial)
    partial.replace(path)


if __name__ == "__main__":
    cli.run(main)
