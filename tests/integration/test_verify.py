"""What is proved of a run, and that the proof finds what is wrong with one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppr_dist import trainer
from ppr_dist.checkpoint import certificate, checksums, wrong_steps
from ppr_dist.checkpoint.position import checkpoints, read_position
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.pretrain import main as pretrain
from tests.commands import run_command, succeed
from tests.integration.conftest import TINY
from tests.oracle import tensors
from tests.ranks import run_ranks

SAVES = (*TINY, "--train.epochs", 3, "--train.checkpoint_every", 2, "--train.keep_checkpoints", 99)
"""Several checkpoints in an epoch."""


@pytest.fixture(scope="module")
def moved(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was cut twice and went on: on 2 ranks, on 1, on 3."""
    run = tmp_path_factory.mktemp("moved") / "run"
    for world_size, steps in ((2, 5), (1, 8), (3, 10**6)):
        flags = (*SAVES, "--train.max_steps", steps, *(("--resume",) if run.is_dir() else ()))
        succeed("pretrain", "--data", catalogue, "--run-dir", run, *flags, world_size=world_size)
    return run


def test_every_user_once_an_epoch_on_any_ranks(moved: Path) -> None:
    said = succeed("verify", "--run-dir", moved).out[0]
    assert re.search(r"on 2, then 1, then 3 rank\(s\): 3 epoch\(s\), in each of which each of \d+ users", said)


def test_moving_between_ranks_changes_nothing_but_rounding(moved: Path, catalogue: Path, tmp_path: Path) -> None:
    succeed("pretrain", "--data", catalogue, "--run-dir", tmp_path / "run", *SAVES)
    one, other = (tensors(run) for run in (tmp_path / "run", moved))
    assert one.keys() == other.keys()
    for name, value in one.items():
        if "exp_avg" not in name and not name.endswith("qkv.bias"):  # of keys: no gradient but rounding, see Adam
            np.testing.assert_allclose(other[name], value, rtol=1e-2, atol=1e-4, err_msg=name)


def plant(fault: str) -> Callable[..., Iterator[Any]]:
    """What the loop trains on, with a fault in the third step it takes."""
    prefetch = trainer.prefetch

    def planted(*arguments: Any) -> Iterator[Any]:
        batches = list(prefetch(*arguments))
        third = batches[2]
        wrong = {
            "left out": [*batches[:2], *batches[3:]],
            "repeated": [*batches[:3], third, *batches[3:]],
            "repeated in place of another": [*batches[:3], third, *batches[4:]],
            "swapped": [*batches[:2], batches[3], third, *batches[4:]],
        }
        yield from wrong[fault]

    return planted


def trained_with(context: DistributedContext, fault: str, data: Path, run: Path) -> None:
    small = ("--train.global_batch_size", 16, "--train.max_steps", 5)  # all in one epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "prefetch", plant(fault))
        pretrain([str(word) for word in ("--data", data, "--run-dir", run, *SAVES, *small)])


FAULTS = {
    "left out": "the batch of step 2 was left out: from there on each step trained that of the next one",
    "repeated": "step 3 trained the batch of step 2 again",
    "repeated in place of another": "step 3 trained the batch of step 2 again",
    "swapped": "steps 2 and 3 were swapped",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_loop_that_trains_other_users_is_found(fault: str, catalogue: Path, tmp_path: Path) -> None:
    """The chain of files is whole: only the sums tell."""
    run_ranks(_alone, 1, fault, catalogue, tmp_path / "run")
    done = run_command("verify", "--run-dir", tmp_path / "run")
    assert done.codes == [2]
    assert f"steps 2 to 3: not the users that were to be trained: {FAULTS[fault]}" in done.err[0]


@pytest.mark.parametrize("did", ["left out", "trained once more"])
def test_one_user_is_named(did: str) -> None:
    steps = [wrong_steps.Step(0, step, np.arange(step * 10, step * 10 + 10)) for step in range(4)]
    right = certificate.of_steps((s.epoch, s.step, s.users) for s in steps)
    one = certificate.sum_of_step(0, 2, certificate.hash_of(np.array([27])))
    found = (right + (one if did == "trained once more" else -one)) % certificate.MODULUS
    assert wrong_steps.name_fault(found, steps, (None, None)) == f"in step 2, user 27 was {did}"
    assert wrong_steps.name_fault(found + 1, steps, (None, None)) is None


def test_a_batch_repeated_early_in_a_span_is_named() -> None:
    steps = [wrong_steps.Step(0, step, np.arange(step * 10, step * 10 + 10)) for step in range(5)]
    trained = [steps[0], *(dataclasses.replace(s, users=b.users) for b, s in itertools.pairwise(steps))]
    found = certificate.of_steps((s.epoch, s.step, s.users) for s in trained[1:])
    said = "from step 1 on each step trained the batch of the one before: one was repeated"
    assert wrong_steps.name_fault(found, steps[1:], (steps[0], None)) == said


def test_a_span_of_other_options_is_trained_again_with_its_own(catalogue: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for steps, lr in ((4, 1e-2), (8, 1e-3)):
        flags = (*SAVES, "--train.max_steps", steps, "--train.lr", lr, *(("--resume",) if run.is_dir() else ()))
        succeed("pretrain", "--data", catalogue, "--run-dir", run, *flags)
    for span in ("2:4", "4:8"):
        assert "are equal to the bit" in succeed("verify", "--run-dir", run, "--replay", span).out[0]
    done = run_command("verify", "--run-dir", run, "--replay", "2:6")
    assert "steps 2 to 3 were trained with other options than those before step-00000006: replay each" in done.err[0]


def _alone(context: DistributedContext, fault: str, data: Path, run: Path) -> None:
    torch.distributed.destroy_process_group()  # the command makes its own
    trained_with(context, fault, data, run)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def another_runs(run: Path) -> str:
    """A checkpoint put in by hand, whole by itself."""
    folder = checkpoints(run)[2]
    sums = json.loads((folder / checksums.CHECKSUMS).read_text())
    previous = sums["previous"] | {"sha256": "0" * 64}
    (folder / checksums.CHECKSUMS).write_text(json.dumps(sums | {"previous": previous}))
    return "does not follow step-"


def one_file_more(run: Path) -> str:
    (checkpoints(run)[1] / "__9_0.distcp").write_bytes(b"")
    return "__9_0.distcp: not a file of this checkpoint"


def no_record(run: Path) -> str:
    """As a version that kept none wrote it."""
    last = checkpoints(run)[-1]
    position = json.loads((last / "position.json").read_text())
    del position["trained"]
    (last / "position.json").write_text(json.dumps(position))
    (last / checksums.CHECKSUMS).unlink()
    checksums.seal(last, {}, checkpoints(run)[-2])
    return r"steps 0 to \d+: nothing says what was trained"


@pytest.mark.parametrize("damage", [another_runs, one_file_more, no_record], ids=lambda f: f.__name__)
def test_other_files_are_found(damage: Callable[[Path], str], moved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(moved, run)
    pattern = damage(run)
    done = run_command("verify", "--run-dir", run)
    assert done.codes == [2]
    assert re.search(pattern, done.err[0])


def test_a_span_is_trained_again_to_the_bit(moved: Path, tmp_path: Path) -> None:
    said = succeed("verify", "--run-dir", moved, "--replay", "2:4", world_size=2).out[0]
    assert re.search(r"step-00000004: trained again, all \d+ tensors are equal to the bit", said)
    done = run_command("verify", "--run-dir", moved, "--replay", "2:4")
    assert "trained on 2 rank(s), this is 1: rounding differs; replay on as many" in done.err[0]
    for wrong, said in {"4:2": "earlier", "2:3": "no checkpoint of step 3; there are 2, 4", "2": "A:B"}.items():
        assert said in run_command("verify", "--run-dir", moved, "--replay", wrong).err[0]
    assert not (moved / ".replay").exists()


def test_the_hash_is_a_sum_over_users_and_tells_steps_apart() -> None:
    users = np.arange(1000)
    parts = sum(certificate.hash_of(part) for part in np.split(users, [1, 400, 400])) % certificate.MODULUS
    assert parts == certificate.hash_of(users[::-1]) == certificate.hash_of(users)
    assert 0 < certificate.hash_of(users) < certificate.MODULUS
    assert certificate.hash_of(np.zeros(0, np.int64)) == 0
    steps = [certificate.sum_of_step(epoch, step, parts) for epoch in range(3) for step in range(3)]
    assert len(set(steps)) == 9
    assert certificate.of_steps([(0, 1, users[:5]), (0, 2, users[5:])]) != certificate.of_steps(
        [(0, 1, users[5:]), (0, 2, users[:5])]
    )


def test_spans_follow_one_another(moved: Path) -> None:
    spans = read_position(checkpoints(moved)[-1]).trained
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert [span.world_size for span in spans][:4] == [2, 2, 2, 1]


def test_checkpoints_that_are_gone_leave_no_fault(catalogue: Path, tmp_path: Path) -> None:
    """An old one is kept, and the one after it is not."""
    run = tmp_path / "run"
    flags = (*TINY, "--train.epochs", 3, "--train.checkpoint_every", 1, "--train.keep_every", 5)
    succeed("pretrain", "--data", catalogue, "--run-dir", run, *flags)
    assert checkpoints(run)[0].name == "step-00000005"
    succeed("verify", "--run-dir", run)
