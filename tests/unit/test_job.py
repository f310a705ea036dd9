"""What a job tells its loader."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ppr_dist.job import Job, make_loader

from ppr_dist.config import Config
from ppr_dist.data.stream.item_shares import write_item_shares
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.runs import RunInfo
from tests.shards import ATTRIBUTES, random_users, write_data


@pytest.mark.parametrize(
    ("job", "split", "share"),
    [
        ("pretrain", "pretrain", [0.0, 0.25, 0.75]),
        ("tune", "tune-train", [1.0, 0.0, 0.0]),
        # Tuning on warm users: their clicks are what the candidates come from.
        ("tune", "pretrain", [0.0, 0.25, 0.75]),
    ],
)
def test_the_in_batch_proposal_is_the_split_that_is_read(
    job: str, split: str, share: list[float], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    manifest = write_data(folder, {split: random_users(9, 3)}, items=3, per_shard=4)
    counts = {"item_index": range(3), "item_id": range(3), "train_count": [0, 1, 3], "tune_count": [2, 0, 0]}
    pq.write_table(
        pa.table({name: pa.array(list(values)) for name, values in counts.items()}), folder / "items.parquet"
    )
    write_item_shares(folder)
    info = RunInfo(
        job=job,  # type: ignore[arg-type]
        method="ppr-full" if job == "tune" else None,
        data=str(folder),
        fingerprint=manifest.fingerprint,
        catalogue={},
        items=3,
        attributes=ATTRIBUTES,
    )
    described = Job(data=folder, run=tmp_path / "run", resume=False, manifest=manifest, info=info, split=split)
    context = DistributedContext(rank=0, world_size=1, device=torch.device("cpu"))
    loader = make_loader(described, Config(), context)
    for shares in (loader.collator.probability, pickle.loads(pickle.dumps(loader.collator)).probability):
        np.testing.assert_allclose(shares[np.arange(3)], share)
    assert loader.collator.first_target == (0 if job == "tune" else 1)
    assert loader.collator.views == (job == "tune")
    for _, batch in loader.epoch(0):
        assert batch.candidate_log_q is not None
        assert torch.isfinite(batch.candidate_log_q[batch.candidate_log_q != torch.inf]).all()
