"""Pre-training on warm users and those to tune on: what of whom is trained on, once an epoch, cut and proved."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppr_dist import run_checks, runs
from ppr_dist.config import Config, Train
from ppr_dist.data.manifest import load_manifest
from ppr_dist.errors import UserError
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.step_loss import make_objectives
from ppr_dist.training import make_loader
from ppr_dist.training_run import Run
from tests.click_logs import read_split
from tests.commands import run_command, succeed
from tests.integration.conftest import TINY
from tests.oracle import tensors
from tests.ranks import run_ranks

BOTH = ("--split", "pretrain", "tune-train")


def trained_on(context: DistributedContext, data: Path, refit: bool) -> list[tuple[int, list[int]]]:
    """(User, history and last target) of all batches of an epoch on this rank."""
    manifest = load_manifest(data)
    run = Run(
        folder=data,
        data=data,
        resume=False,
        manifest=manifest,
        info=runs.describe("pretrain", None, data, manifest),
        split="pretrain+tune-train",
        config=Config(train=Train(global_batch_size=32, refit=refit)),
        context=context,
    )
    found = []
    for _, batch in make_loader(run, make_objectives(run.config, None, run.catalogue)).epoch(0):
        histories = batch.item_ids[batch.history.items].split(batch.history.lengths.tolist())
        last = {int(row): int(item) for row, item in zip(batch.user_rows, batch.item_ids[batch.targets], strict=True)}
        for row, (user, history) in enumerate(zip(batch.users.tolist(), histories, strict=True)):
            found.append((user, [*history.tolist(), *([last[row]] if row in last else [])]))
    return found


@pytest.mark.parametrize("refit", [False, True])
def test_every_user_once_warm_ones_without_the_targets_of_validation_and_test(catalogue: Path, refit: bool) -> None:
    found = [each for rank in run_ranks(trained_on, 2, catalogue, refit) for each in rank]
    manifest, want = load_manifest(catalogue), {}
    for split, held_out in (("pretrain", 1 if refit else 2), ("tune-train", 0)):
        for user, clicks in read_split(catalogue, manifest, split)[["user", "items"]].itertuples(index=False):
            kept = list(clicks)[: len(clicks) - held_out][-51:]
            want[user] = kept if len(kept) > 1 else []
    assert Counter(user for user, _ in found) == Counter(list(want))
    assert dict(found) == want


def test_a_run_that_was_cut_is_the_same_and_proved(catalogue: Path, tmp_path: Path) -> None:
    words = ("--data", catalogue, *TINY, *BOTH, "--train.epochs", 2)
    succeed("pretrain", *words, "--run-dir", tmp_path / "whole", world_size=2)
    succeed("pretrain", *words, "--run-dir", tmp_path / "cut", "--train.max_steps", 5, world_size=2)
    succeed("pretrain", *words, "--run-dir", tmp_path / "cut", "--resume", world_size=2)
    one, other = (tensors(tmp_path / name) for name in ("whole", "cut"))
    assert all(np.array_equal(other[name], value) for name, value in one.items())
    said = succeed("verify", "--run-dir", tmp_path / "cut").out[0]
    users = sum(load_manifest(catalogue).split(split).users for split in ("pretrain", "tune-train"))
    assert re.search(rf"2 epoch\(s\), in each of which each of {users} users was trained exactly once", said)
    assert runs.read(tmp_path / "cut")[1].splits == ["pretrain", "tune-train"]
    refused = run_command("pretrain", "--data", catalogue, *TINY, "--run-dir", tmp_path / "cut", "--resume")
    assert refused.lines[-1].endswith(
        "written with split pretrain+tune-train, now pretrain; resume with the same configuration"
    )


def test_a_refit_says_so_and_stays_one(catalogue: Path, tmp_path: Path) -> None:
    words = ("--data", catalogue, *TINY, "--run-dir", tmp_path / "run", "--train.max_steps", 2)
    succeed("pretrain", *words, "--train.refit", "true")
    line = json.loads(
        succeed("evaluate", "--run-dir", tmp_path / "run", "--data", catalogue, "--task", "next-item").out[0]
    )
    assert line["passport"]["trained_on_validation"]
    refused = run_command("pretrain", *words, "--resume")
    assert refused.lines[-1].endswith("has train.refit true; resume it with --train.refit true")


def test_what_saw_tuning_users_does_not_fit_data_that_test_them(catalogue: Path, tmp_path: Path) -> None:
    manifest = load_manifest(catalogue)
    info = runs.describe("pretrain", None, catalogue, manifest)
    another = dataclasses.replace(manifest, settings=manifest.settings | {"tune_test_fold": 2})
    run_checks.check_held_out(info, tmp_path, another, catalogue)
    with pytest.raises(UserError, match=r"pre-trained on the users that .* tests"):
        run_checks.check_held_out(dataclasses.replace(info, splits=["tune-train"]), tmp_path, another, catalogue)


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.exhaustive), 3])
def test_the_first_clicks_baseline_counts_those_that_training_may_see(
    catalogue: Path, tuned: Path, tmp_path: Path, world_size: int
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tuned, run)
    words = ("--baseline", "first-clicks", "--protocol", "full", "--batch", 9, "--progress", "false")
    out = tmp_path / "ranks"
    done = succeed(
        "evaluate", "--run-dir", run, "--task", "zero-shot", *words, "--predictions", out, world_size=world_size
    )
    assert json.loads(done.out[0].splitlines()[-1])["method"] == "first-clicks"
    manifest = load_manifest(catalogue)
    counts = np.zeros(manifest.items)
    for split, fewest in (("pretrain", 3), ("tune-train", 1)):
        for clicks in read_split(catalogue, manifest, split)["items"]:
            if len(clicks) >= fewest:
                counts[clicks[0]] += 1
    targets = [clicks[0] for clicks in read_split(catalogue, manifest, "tune-test")["items"]]
    want = [int((counts >= counts[target]).sum()) for target in targets]  # ties count against it
    assert pd.read_parquet(out)["rank"].tolist() == want
