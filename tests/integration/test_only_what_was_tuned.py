"""Checkpoints that hold what was tuned alone: their size, what they stand on, and several of them on one model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ppr_dist.checkpoint import reader
from ppr_dist.checkpoint.position import checkpoints
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.errors import UserError
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.trained import Trained, load_several, load_trained
from tests.commands import run_command, succeed
from tests.integration.conftest import TINY
from tests.oracle import tensors
from tests.ranks import run_ranks

METHODS = ("ppr-light", "patch", "norms-and-biases")


def size(run: Path) -> int:
    return sum(file.stat().st_size for file in checkpoints(run)[-1].iterdir())


@pytest.fixture(scope="module")
def pretrained_here(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that may be moved."""
    run = tmp_path_factory.mktemp("base") / "run"
    shutil.copytree(pretrained, run)
    return run


@pytest.fixture(scope="module")
def runs(catalogue: Path, pretrained_here: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    for method in METHODS:
        flags = ("--data", catalogue, "--init", pretrained_here, "--method", method, "--run-dir", folder / method)
        done = succeed("tune", *flags, *TINY, world_size=1 + (method == "patch"))
        assert re.search(
            r"[\d,]+ of [\d,]+ parameters are trainable .*; a checkpoint holds these alone, \d+ kB", done.out[0]
        )
    flags = ("--data", catalogue, "--init", pretrained_here, "--method", "patch", "--run-dir", folder / "whole")
    succeed("tune", *flags, *TINY, "--train.save_all", "true", world_size=2)
    return {name: folder / name for name in (*METHODS, "whole")}


def test_they_are_small_and_hold_nothing_that_is_frozen(runs: dict[str, Path], pretrained_here: Path) -> None:
    for method in METHODS:
        base = json.loads((runs[method] / "run.json").read_text())["base"]
        assert base["step"] == int(checkpoints(pretrained_here)[-1].name[5:])
        held = reader.names(checkpoints(runs[method])[-1])
        assert not any("items" in name for name in held)
        parameters = {name for name in held if name.startswith("dense.parameter.")}
        assert parameters == {name.replace("exp_avg", "parameter") for name in held if ".exp_avg." in name}
    alone, whole = (tensors(runs[name]) for name in ("patch", "whole"))
    frozen = [name for name in whole if ("parameter.backbone" in name and ".patch." not in name) or ".items." in name]
    assert size(runs["patch"]) < size(runs["whole"]) - sum(whole[name].nbytes for name in frozen)
    for name in reader.names(checkpoints(runs["patch"])[-1]):
        np.testing.assert_array_equal(alone[name], whole[name], err_msg=name)


def predicted(run: Path, out: Path, *flags: Any, world_size: int = 0) -> pd.DataFrame:
    succeed("evaluate", "--run-dir", run, "--task", "joint", "--predictions", out, *flags, world_size=world_size)
    return pd.read_parquet(out)


def test_pre_training_that_goes_on_keeps_what_they_stand_on(
    runs: dict[str, Path], catalogue: Path, pretrained_here: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(pretrained_here, moved)
    (base,) = checkpoints(moved)
    marked = (base.parent / f"{base.name}.kept-by").read_text().splitlines()
    assert {str(runs[method]) for method in METHODS} <= set(marked)  # other tests' runs may stand on it too
    flags = ("--train.epochs", 2, "--train.checkpoint_every", 1, "--train.keep_checkpoints", 1)
    succeed("pretrain", "--data", catalogue, "--run-dir", moved, *TINY, *flags, "--resume")
    assert checkpoints(moved)[:-1] == [base]
    succeed("evaluate", "--run-dir", runs["ppr-light"], "--task", "joint", "--init", moved)


@pytest.mark.exhaustive
def test_they_score_as_one_that_holds_everything_on_any_number_of_ranks_and_wherever_the_base_lies(
    runs: dict[str, Path], pretrained_here: Path, pretrained: Path, tmp_path: Path
) -> None:
    want = predicted(runs["whole"], tmp_path / "whole")
    pd.testing.assert_frame_equal(predicted(runs["patch"], tmp_path / "two", world_size=2), want)
    moved = tmp_path / "moved"
    pretrained_here.rename(moved)
    try:
        gone = run_command("evaluate", "--run-dir", runs["patch"], "--task", "joint", world_size=2)
        assert set(gone.codes) == {2}
        said = [line for line in gone.lines if "stands on" in line]
        assert said
        assert all("which is not there: name the pre-trained run by --init" in line for line in said)
        pd.testing.assert_frame_equal(predicted(runs["patch"], tmp_path / "named", "--init", moved), want)
        # Another run of as many steps, or the same one changed, is not taken for it.
        sums = checkpoints(moved)[-1] / "checksums.json"
        kept = sums.read_text()
        sums.write_text(kept + "\n")
        other = run_command("evaluate", "--run-dir", runs["patch"], "--task", "joint", "--init", moved)
        assert other.codes == [2]
        assert "is another checkpoint" in other.lines[-1]
        sums.write_text(kept)
    finally:
        moved.rename(pretrained_here)
    said = succeed("verify", "--run-dir", runs["patch"]).out[0]
    assert "is the one they were tuned from" in said


@pytest.mark.exhaustive
def test_a_resumed_one_ends_as_one_that_never_stopped(
    runs: dict[str, Path], catalogue: Path, pretrained_here: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flags = ("--data", catalogue, "--init", pretrained_here, "--method", "patch", "--run-dir", run, *TINY)
    succeed("tune", *flags, "--train.max_steps", 2, world_size=2)
    refused = run_command("tune", *flags, "--resume", "--train.save_all", "true")
    assert refused.codes == [2]
    assert "saves only what is trained" in refused.lines[-1]
    succeed("tune", *flags, "--resume", world_size=2)
    want = tensors(runs["patch"])
    for name, values in tensors(run).items():
        np.testing.assert_array_equal(values, want[name], err_msg=name)


def vectors(trained: Trained) -> Iterator[np.ndarray]:
    """User vectors of the cold users, and the item vectors."""
    _, blocks = users_in_order(trained.data, trained.manifest, "tune-test", rank=0, world_size=1, at_once=64)
    for users in blocks:
        instances = Instances(users, np.arange(len(users)), users.lengths)
        yield trained.scorer.user_vectors(history_batch(instances, trained.config.model.max_length)).numpy()
    for _, items in trained.scorer.own_items(trained.manifest.items):
        yield items.numpy()


def storages(trained: list[Trained]) -> int:
    """Bytes of all tensors, each storage once."""
    found = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for each in trained
        for tensor in (
            *each.scorer.model.parameters(),
            *(shard for _, shard, _, _ in each.scorer.embeddings.local_shards()),
        )
    }
    return sum(found.values())


def alone_and_together(context: DistributedContext, runs: dict[str, Path]) -> dict[str, Any]:
    tuned, found = [runs[method] for method in METHODS], {}
    with torch.no_grad():
        alone, sizes = [], []
        for run in tuned:
            trained = load_trained(run, None, context)
            alone.append(list(vectors(trained)))
            sizes.append(storages([trained]))
        together = load_several(tuned, None, context)
        # There and back: serving one leaves nothing behind for the next.
        for number in (0, 1, 2, 0, 2, 1):
            same = zip(vectors(together[number]), alone[number], strict=True)
            found[f"{number}"] = all(np.array_equal(one, other) for one, other in same)
        trainable = [sum(p.numel() * 4 for p in each.scorer.model.parameters() if p.requires_grad) for each in together]
        with pytest.raises(UserError, match="does not stand on"):
            load_several([tuned[0], runs["whole"]], None, context)
    return {"same": found, "alone": sizes, "together": storages(together), "trainable": trainable}


def test_several_on_one_model_give_what_each_gives_alone_and_take_little_more_memory_than_it(
    runs: dict[str, Path],
) -> None:
    (found,) = run_ranks(alone_and_together, 1, runs)
    assert all(found["same"].values()), found["same"]
    items = tensors(runs["whole"])["tables.items.embeddings.item.weight"].nbytes
    assert found["together"] < sum(found["alone"]) - 2 * items
    whole = tensors(runs["whole"])
    backbone = sum(
        v.nbytes for n, v in whole.items() if n.startswith("dense.parameter.backbone") and ".patch." not in n
    )
    own = [size - items - backbone for size in found["alone"]]  # of each: what it added
    # norms-and-biases has its own of what it trains, beside the pre-trained ones.
    assert found["together"] <= items + backbone + sum(own) + backbone // 4
