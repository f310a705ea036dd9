"""The best checkpoint: chosen on held-out users, kept, used; and a run that is cut anywhere chooses the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppr_dist.checkpoint.position import checkpoint_of, checkpoints, read_position
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.evaluation import evaluate
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.trained import load_trained
from tests.commands import run_command, succeed
from tests.integration.conftest import PREPARE, TINY
from tests.integration.test_methods import ITEM
from tests.oracle import tensors
from tests.ranks import run_ranks

STOPS = ("--train.epochs", 40, "--train.eval_every_epochs", 1, "--train.patience", 2)
"""Validation after each epoch, until two in a row are no better."""


@pytest.fixture(scope="module")
def data(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validation") / "data"
    config = PrepareConfig(tune_validation_fraction=0.25, **PREPARE)  # type: ignore[arg-type]
    prepare(str(raw / "interactions.parquet"), str(raw / "users.parquet"), out, config)
    return out


@pytest.fixture(scope="module")
def warm(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained run that went on until it got worse, with large steps so that it soon does."""
    run = tmp_path_factory.mktemp("warm") / "run"
    flags = (*TINY, *STOPS, "--train.keep_checkpoints", 1, "--train.lr", 0.1)
    succeed("pretrain", "--data", data, "--run-dir", run, *flags)
    return run


def validations(run: Path, metric: str = "ndcg@10") -> dict[int, float]:
    """The metric by step."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r[f"validation_{metric}"] for r in records if f"validation_{metric}" in r}


def check_choice(run: Path, metric: str = "ndcg@10") -> int:
    """Its last checkpoint names the earliest of the highest validations, and that one is there; return its step."""
    found = validations(run, metric)
    last = read_position(checkpoints(run)[-1])
    best = last.best
    assert best is not None
    assert (best.metric, best.value) == (metric, max(found.values()))
    assert best.step == min(step for step, value in found.items() if value == best.value)
    assert best.since == len([step for step in found if step > best.step]) == 2
    assert last.step == max(found)
    assert checkpoint_of(run, best.step) in checkpoints(run)
    return best.step


def measured(context: DistributedContext, run: Path, task: str, split: str) -> dict[str, Any]:
    trained = load_trained(run, None, context)
    return evaluate(
        trained.scorer,
        trained.data,
        trained.manifest,
        context,
        task=task,  # type: ignore[arg-type]
        split=split,
        protocol="full",
        config=trained.config,
    )


@pytest.mark.parametrize(("method", "world_size"), [("ppr-light", 2), ("ppr-full", 0), ("fine-tune", 0)])
def test_tuning_keeps_and_uses_what_is_best_for_users_it_never_saw(
    method: str, world_size: int, data: Path, warm: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    large = ("--train.lr", 0.05, "--train.keep_checkpoints", 1, "--train.best_metric", "auc")
    flags = ("--data", data, "--init", warm, "--method", method, "--run-dir", run, *TINY, *STOPS, *large)
    done = succeed("tune", *flags, world_size=world_size)
    step = check_choice(run, "auc")
    assert checkpoints(run) == [checkpoint_of(run, step), checkpoint_of(run, max(validations(run)))]
    assert f"from {warm}: step {check_choice(warm)} (best ndcg@10 of validation" in done.out[0]
    if method == "ppr-light":
        np.testing.assert_array_equal(tensors(run)[ITEM], tensors(warm, check_choice(warm))[ITEM])
    (metrics,) = run_ranks(measured, 1, run, "few-shot", "tune-validation")
    assert metrics["auc"] == pytest.approx(max(validations(run, "auc").values()), abs=1e-6)
    if method == "ppr-light":
        said = succeed("evaluate", "--run-dir", run, "--task", "few-shot").out[0].splitlines()[0]
        assert said == f"{run}: step {step} (best auc of validation, {metrics['auc']:.4f})"


def test_pretraining_keeps_and_uses_what_is_best_for_the_last_click_but_one(warm: Path) -> None:
    step = check_choice(warm)
    (metrics,) = run_ranks(measured, 1, warm, "validation", "pretrain")
    assert metrics["ndcg@10"] == pytest.approx(validations(warm)[step], abs=1e-6)
    assert len(checkpoints(warm)) == 2


def test_a_run_that_was_cut_chooses_and_stops_as_the_whole_one(data: Path, warm: Path, tmp_path: Path) -> None:
    whole, flags = tmp_path / "whole", ("--data", data, "--init", warm, "--method", "ppr-full", *TINY, *STOPS)
    flags += ("--train.lr", 0.05, "--train.checkpoint_every", 1, "--train.keep_checkpoints", 1000)
    succeed("tune", *flags, "--run-dir", whole)
    best, last = check_choice(whole), max(validations(whole))
    per_epoch = min(validations(whole))
    assert per_epoch > 1
    want = tensors(whole)
    # In the middle of an epoch, after a validation that was no better; at the end.
    for cut in (best + per_epoch + 1, last):
        run = tmp_path / f"cut-{cut}"
        shutil.copytree(whole, run)
        for later in checkpoints(run):
            if later > checkpoint_of(run, cut):
                shutil.rmtree(later)
        succeed("tune", *flags, "--run-dir", run, "--resume")
        assert [p.name for p in checkpoints(run)] == [p.name for p in checkpoints(whole)]
        assert read_position(checkpoints(run)[-1]) == read_position(checkpoints(whole)[-1])
        assert validations(run) == validations(whole)
        for name, values in tensors(run).items():
            np.testing.assert_array_equal(values, want[name], err_msg=f"cut at {cut}: {name}")
    # What is best is compared by one metric from beginning to end.
    done = run_command("tune", *flags, "--run-dir", whole, "--resume", "--train.best_metric", "auc")
    assert done.codes == [2]
    assert "its best is by ndcg@10, now train.best_metric is auc" in done.err[0]


def test_steps_that_end_between_validations_are_followed_by_one(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--train.max_steps", 3, "--train.epochs", 9, "--train.eval_every_epochs", 9)
    succeed("pretrain", "--data", data, "--run-dir", run, *TINY, *flags)
    assert list(validations(run)) == [3]
