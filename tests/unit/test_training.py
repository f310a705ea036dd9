"""What a run tells its loader."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ppr_dist.config import Config, Train
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.stream.item_shares import write_item_shares
from ppr_dist.errors import UserError
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.runs import RunInfo
from ppr_dist.step_loss import make_objectives
from ppr_dist.training import make_loader
from ppr_dist.training_run import Run, check
from tests.shards import ATTRIBUTES, random_users, write_data


def run_on(data: Path, manifest: Manifest, split: str, method: str | None = None, config: Config | None = None) -> Run:
    """A run of one rank, tuned by ``method`` or pre-trained."""
    info = RunInfo(
        stage="tune" if method else "pretrain",
        method=method,
        data=str(data),
        fingerprint=manifest.fingerprint,
        catalogue={},
        items=3,
        attributes=ATTRIBUTES,
    )
    return Run(
        folder=data.parent / "run",
        data=data,
        resume=False,
        manifest=manifest,
        info=info,
        split=split,
        config=config or Config(),
        context=DistributedContext(rank=0, world_size=1, device=torch.device("cpu")),
    )


@pytest.mark.parametrize(
    ("stage", "split", "share"),
    [
        ("pretrain", "pretrain", [0.0, 0.25, 0.75]),
        ("tune", "tune-train", [1.0, 0.0, 0.0]),
        # Tuning on warm users: their clicks are what the candidates come from.
        ("tune", "pretrain", [0.0, 0.25, 0.75]),
    ],
)
def test_the_in_batch_proposal_is_the_split_that_is_read(
    stage: Literal["pretrain", "tune"], split: str, share: list[float], tmp_path: Path
) -> None:
    folder, method = tmp_path / "data", "ppr-full" if stage == "tune" else None
    manifest = write_data(folder, {split: random_users(9, 3)}, items=3, per_shard=4)
    counts = {"item_index": range(3), "item_id": range(3), "train_count": [0, 1, 3], "tune_count": [2, 0, 0]}
    pq.write_table(
        pa.table({name: pa.array(list(values)) for name, values in counts.items()}), folder / "items.parquet"
    )
    write_item_shares(folder)
    run = run_on(folder, manifest, split, method)
    objectives = make_objectives(run.config, method, run.catalogue)
    assert list(objectives) == (["softmax", "contrastive"] if stage == "tune" else ["softmax"])
    loader = make_loader(run, objectives)
    for shares in (loader.collator.probability, pickle.loads(pickle.dumps(loader.collator)).probability):
        np.testing.assert_allclose(shares[np.arange(3)], share)
    assert loader.collator.first_target == (0 if stage == "tune" else 1)
    for targets, first, last in (("first", 0, 0), ("later", 1, None)):
        asked = dataclasses.replace(run.config.train, targets=targets)  # type: ignore[arg-type]
        collator = make_loader(
            dataclasses.replace(run, config=dataclasses.replace(run.config, train=asked)), {}
        ).collator
        if stage == "tune":
            assert (collator.first_target, collator.last_target) == (first, last)
    nothing_known = dataclasses.replace(run.info, attributes={}, method=method and "fine-tune")
    assert make_loader(dataclasses.replace(run, info=nothing_known), {}).collator.first_target == 1
    for _, batch in loader.epoch(0):
        assert list(batch.views) == (["contrastive"] if stage == "tune" else [])
        log_q = batch.drawn["softmax"]["log_q"]
        assert torch.isfinite(log_q[log_q != torch.inf]).all()


def test_of_two_splits_the_proposal_is_that_of_their_clicks_together(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    parts = {
        "pretrain": random_users(9, 3, shortest=3),
        "tune-train": random_users(5, 3, shortest=1, first_index=9, seed=4),
    }
    manifest = write_data(folder, parts, items=3, per_shard=4)
    warm = [parts["pretrain"].items[start : stop - 2] for start, stop in itertools.pairwise(parts["pretrain"].offsets)]
    train, tune = (np.bincount(clicks, minlength=3) for clicks in (np.concatenate(warm), parts["tune-train"].items))
    columns = {"item_index": np.arange(3), "item_id": np.arange(3), "train_count": train, "tune_count": tune}
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), folder / "items.parquet")
    write_item_shares(folder)
    collator = make_loader(run_on(folder, manifest, "pretrain+tune-train"), {}).collator
    together = (train + tune) / (train + tune).sum()
    for shares in (collator.probability, pickle.loads(pickle.dumps(collator)).probability):
        np.testing.assert_allclose(shares[np.arange(3)], together, rtol=1e-6)
    assert (collator.hold_out, collator.held_out_below) == (2, 9)


def test_warm_users_may_be_tuned_on_as_if_they_had_just_begun(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    parts = {
        "pretrain": random_users(9, 30, longest=12, shortest=3),
        "tune-train": random_users(5, 30, longest=6, shortest=1, first_index=9, seed=4),
    }
    manifest = write_data(folder, parts, items=30, per_shard=4)
    columns = {"item_index": range(30), "item_id": range(30), "train_count": [1] * 30, "tune_count": [1] * 30}
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), folder / "items.parquet")
    write_item_shares(folder)
    run = run_on(folder, manifest, "tune-train+pretrain", "ppr-light", Config(train=Train(first_clicks=4)))
    want = Counter(
        (int(user), int(item))
        for part, held_out in ((parts["pretrain"], 2), (parts["tune-train"], 0))
        for user, start, stop in zip(part.index, part.offsets, part.offsets[1:], strict=False)
        for item in part.items[start : max(start, stop - held_out)][:4]
    )
    found = Counter(
        (int(batch.users[row]), int(batch.item_ids[item]))
        for _, batch in make_loader(run, {}).epoch(0)
        for row, item in zip(batch.user_rows, batch.targets, strict=True)
    )
    assert found == want
    assert max(batch.history.lengths.max() for _, batch in make_loader(run, {}).epoch(0)) == 3


def test_without_profiles_nothing_predicts_a_first_click(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    manifest = write_data(folder, {"pretrain": random_users(9, 3)}, items=3, per_shard=4)
    run = run_on(folder, manifest, "pretrain", config=Config(train=Train(first_clicks=1)))
    with pytest.raises(UserError, match="first_clicks 1: only tuning on data with profiles"):
        check(run)


@pytest.mark.parametrize(
    ("method", "split", "objective", "validation"),
    [
        (None, "pretrain", "softmax", ("validation", "pretrain")),
        (None, "pretrain+tune-train", "softmax", ("validation", "pretrain")),
        ("continual", "pretrain", "softmax", ("validation", "pretrain")),
        ("ppr-light", "tune-train", "softmax", ("few-shot", "tune-validation")),
        ("ppr-light", "tune-train+pretrain", "softmax", ("few-shot", "tune-validation")),
        # Its labels are those of users: what it is validated by belongs to users it does not train on.
        (None, "pretrain", "attribute", ("attribute", "tune-validation")),
        ("fine-tune", "tune-train", "attribute", ("attribute", "tune-validation")),
    ],
)
def test_validation_asks_what_training_does_not_see(
    method: str | None, split: str, objective: str, validation: tuple[str, str], tmp_path: Path
) -> None:
    manifest = write_data(
        tmp_path / "data", {name: random_users(9, 3) for name in split.split("+")}, items=3, per_shard=4
    )
    run = run_on(tmp_path, manifest, split, method, config=Config(train=Train(objectives=[objective])))
    assert run.validation == validation
