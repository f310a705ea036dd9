"""Every bad input: one clear line on stderr that names it, a status other than 0, and nothing half-written.

What ``prepare`` refuses is in tests/unit/data/prepare/test_prepare_refuses.py, what ``recommend`` reads in
tests/unit/data/prepare/test_raw_users.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import yaml

from ppr_dist.checkpoint.checksums import CHECKSUMS
from ppr_dist.checkpoint.position import checkpoints
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream.user_stream import UserStream
from ppr_dist.files import read_lines
from tests.commands import Done, run_command, succeed
from tests.integration.conftest import TINY, prepare_tiny
from tests.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]
EVALUATE = ("--task", "few-shot", "--progress", "false")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a bad input finds good ones beside it."""

    tmp: Path
    raw: Path
    data: Path
    pretrained: Path
    tuned: Path

    @property
    def out(self) -> Path:
        """What a refused command must not have made."""
        return self.tmp / "out"

    def file(self, name: str, text: str) -> Path:
        (self.tmp / name).write_text(text)
        return self.tmp / name

    def train(self, *argv: Any) -> tuple[Any, ...]:
        return ("pretrain", "--data", self.data, "--run-dir", self.out, *TINY, *argv)

    def tune(self, *argv: Any) -> tuple[Any, ...]:
        given = {"--data": self.data, "--init": self.pretrained, "--method": "ppr-light", "--run-dir": self.out}
        given |= dict(zip(argv[::2], argv[1::2], strict=True))
        return ("tune", *(word for pair in given.items() for word in pair), *TINY)

    def recommend(self, *argv: Any) -> tuple[Any, ...]:
        given = {"--run-dir": self.tuned, "--users": self.raw / "users.parquet", "--out": self.out / "r.parquet"}
        given |= dict(zip(argv[::2], argv[1::2], strict=True))
        return ("recommend", *(word for pair in given.items() for word in pair), "--progress", "false")


@pytest.fixture
def place(tmp_path: Path, raw: Path, catalogue: Path, pretrained: Path, tuned: Path) -> Place:
    return Place(tmp_path, raw, catalogue, pretrained, tuned)


@pytest.fixture(scope="session")
def other(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same logs prepared with another seed: another numbering of the items."""
    return prepare_tiny(raw, tmp_path_factory.mktemp("other") / "data", seed=1)


def refused(done: Done, pattern: str) -> None:
    assert set(done.codes) == {2}, done
    assert len(done.lines) == 1, done
    assert done.lines[0].startswith("ppr_dist: error: ")
    assert re.search(pattern, done.lines[0]), done.lines[0]
    assert not any(done.out)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def empty_log(place: Place, columns: str = "user_id item_id timestamp") -> Path:
    frame = pd.read_parquet(place.raw / "interactions.parquet")[columns.split()].iloc[:0]
    frame.to_parquet(place.tmp / "log.parquet")
    return place.tmp / "log.parquet"


def bare(place: Place, objective: str = "softmax") -> Path:
    """A run of which no checkpoint is left."""
    run = place.tmp / "bare"
    shutil.copytree(place.tuned, run, ignore=shutil.ignore_patterns("checkpoints"))
    _replace(run / "config.yaml", "  objectives:\n  - softmax\n", f"  objectives:\n  - {objective}\n")
    return run


Command = Callable[[Place], tuple[Any, ...]]
COMMANDS: dict[str, tuple[Command, str]] = {
    # Files that are not there.
    "no data": (lambda p: p.train("--data", p.tmp / "absent"), "absent/manifest.json: no such file; run .*prepare"),
    "no config": (lambda p: p.train("--config", p.tmp / "absent.yaml"), "absent.yaml"),
    "no cluster": (
        lambda p: p.train("--tables.cluster", p.tmp / "absent.yaml"),
        "error: [^:]*/absent.yaml: cannot read the cluster file: No such file or directory$",
    ),
    "no users": (lambda p: p.recommend("--users", p.tmp / "absent.parquet"), "absent.parquet: no such file"),
    "no log": (lambda p: p.recommend("--interactions", p.tmp / "absent.csv"), "absent.csv: no such file"),
    "no log to prepare": (
        lambda p: ("prepare", "--interactions", p.tmp / "absent.csv", "--out", p.out),
        "absent.csv: no such file",
    ),
    # Columns and rows that are not there.
    "empty log": (lambda p: p.recommend("--interactions", empty_log(p)), "log.parquet: no interactions in it"),
    "empty log to prepare": (
        lambda p: ("prepare", "--interactions", empty_log(p), "--out", p.out),
        "log.parquet: no interactions in it",
    ),
    "no column": (
        lambda p: p.recommend("--interactions", empty_log(p, "user_id timestamp")),
        "log.parquet: no column 'item_id'; it has user_id, timestamp",
    ),
    "no attribute": (
        lambda p: p.recommend("--users", p.file("users.csv", "user_id,age,city\n1,2,Oslo\n")),
        "users.csv: no column 'gender'; it has user_id, age, city",
    ),
    # Keys and values of the configuration.
    **{
        f"{option} in pre-training": (
            lambda p, option=option, value=value: p.train(f"--{option}", value),
            f"{option} is for tuning: .*leave it out",
        )
        for option, value in (
            ("train.pretrained_lr", 1e-3),
            ("tables.pretrained_lr", 0.01),
            ("tables.train_items", "true"),
        )
    },
    "unknown flag": (lambda p: p.train("--train.learning_rate", 1), "train.learning_rate"),
    "abbreviated flag": (lambda p: p.train("--train.epo", 1), "train.epo"),
    "unknown flag of recommend": (lambda p: p.recommend("--top", 3), "--top"),
    "unknown key": (lambda p: p.train("--config", p.file("c.yaml", "train:\n  rate: 1\n")), "train.rate: no such"),
    "unknown section": (
        lambda p: p.train("--config", p.file("c.yaml", "training:\n  lr: 1\n")),
        r"/c\.yaml: --training\.lr: no such option$",
    ),
    "broken YAML": (lambda p: p.train("--config", p.file("c.yaml", "train: [1\n")), "config.*line 2"),
    "wrong type": (lambda p: p.train("--train.global_batch_size", "many"), "train.global_batch_size.*int.*many"),
    "wrong type in YAML": (lambda p: p.train("--config", p.file("c.yaml", "train:\n  lr: high\n")), "train.lr.*high"),
    "out of range": (
        lambda p: p.train("--train.global_batch_size", 0),
        "train.global_batch_size must be above 0, not 0",
    ),
    "no such choice": (lambda p: p.train("--tables.optimizer", "lion"), "tables.optimizer.*lion"),
    "indivisible": (lambda p: p.train("--sasrec.heads", 3), "model.dim 16 .* sasrec.heads 3"),
    "missing flag": (lambda p: ("pretrain", "--data", p.data), "required.*run"),
    "no value": (
        lambda p: p.train("--config", p.file("c.yaml", "train:\n  lr:\n")),
        "--train.lr: expected float, got null",
    ),
    "an empty section": (
        lambda p: p.train("--config", p.file("c.yaml", "bpr:\ntrain:\n  lr: 0.1\n")),
        "c.yaml: bpr: expected the options of a section, got null",
    ),
    "a value for a section": (
        lambda p: p.train("--config", p.file("c.yaml", "train: 3\n")),
        "c.yaml: train: expected the options of a section, got 3",
    ),
    # Parts: their names and their sections, also those of parts that are not chosen.
    "no such method": (
        lambda p: p.tune("--method", "prefix"),
        "--method 'prefix': there is none; choose from ppr-light, ppr-full, fine-tune",
    ),
    "no such task": (
        lambda p: ("evaluate", "--run-dir", p.tuned, "--task", "few-shot", "one-shot"),
        "--task 'one-shot': there is none; choose from few-shot, zero-shot, joint",
    ),
    "no such objective": (
        lambda p: p.train("--train.objectives", "softmax", "hinge"),
        "train.objectives 'hinge': there is none; choose from softmax, full_softmax, bpr, bce",
    ),
    "an objective twice": (lambda p: p.train("--train.objectives", "bpr", "bpr"), "train.objectives.*each once"),
    "no objective": (lambda p: p.train("--train.objectives", "[]"), "train.objectives.*at least one"),
    "objectives without weight": (
        lambda p: p.train("--train.objectives", "contrastive", "--contrastive.weight", 0),
        "train.objectives contrastive: the weight of each is 0",
    ),
    "no such backbone": (
        lambda p: p.train("--model.backbone", "gru5rec"),
        "model.backbone 'gru5rec': there is none; choose from sasrec",
    ),
    "no such item encoder": (
        lambda p: p.train("--model.item_encoders", "image"),
        "model.item_encoders 'image': there is none; choose from id, features",
    ),
    "unknown key of a part": (
        lambda p: p.train("--config", p.file("c.yaml", "bpr:\n  negatives: 3\n")),
        "--bpr.negatives: no such option",
    ),
    "unknown flag of a part": (lambda p: p.train("--bpr.negatives", 3), "--bpr.negatives"),
    "wrong type in a part": (
        lambda p: p.train("--config", p.file("c.yaml", "bpr:\n  uniform_negatives: many\n")),
        "--bpr.uniform_negatives: expected int, got many",
    ),
    "out of range in a part": (
        lambda p: p.train("--bce.uniform_negatives", 0),
        "bce.uniform_negatives must be above 0, not 0",
    ),
    "no candidates": (
        lambda p: p.train("--softmax.uniform_negatives", 0, "--softmax.in_batch_per_user", 0),
        "softmax needs uniform_negatives or in_batch_per_user above 0",
    ),
    "negative weight": (lambda p: p.train("--contrastive.weight", -1), "contrastive.weight must be at least 0, not -1"),
    "out of range in a part of tuning": (
        lambda p: (*p.tune("--method", "fine-tune"), "--prompt.tokens", 0),
        "prompt.tokens must be above 0, not 0",
    ),
    "another backbone": (
        lambda p: (*p.tune(), "--model.backbone", "gru5rec"),
        "model.backbone is gru5rec, but the pre-trained run has sasrec; leave it out",
    ),
    "another part of the model": (
        lambda p: (*p.tune(), "--config", p.file("c.yaml", "sasrec:\n  layers: 2\n")),
        "sasrec.layers is 2, but the pre-trained run has 1; leave it out",
    ),
    "no such metric": (
        lambda p: p.train("--train.best_metric", "ndcg", "--train.eval_every_epochs", 1),
        "train.best_metric 'ndcg': validation has auc, hit@5",
    ),
    "options of the version before": (
        lambda p: p.train("--config", p.file("c.yaml", "loss:\n  kind: bpr\n")),
        "--loss.kind: no such option",
    ),
    "a section of the version before": (
        lambda p: p.train("--config", p.file("c.yaml", "observe:\n  wandb: true\n")),
        "--observe.wandb: no such option",
    ),
    "another model": (lambda p: (*p.tune(), "--model.dim", 32), "model.dim is 32, but the pre-trained run has 16"),
    "another model that is the default": (
        lambda p: (*p.tune(), "--config", p.file("c.yaml", "model:\n  max_length: 50\n")),
        "model.max_length is 50, but the pre-trained run has 12; leave it out",
    ),
    "validation without users": (
        lambda p: (*p.tune(), "--train.eval_every_epochs", 1),
        "train.eval_every_epochs: .* no few-shot instances in tune-validation; prepare again with --tune-val",
    ),
    "patience without validation": (lambda p: p.train("--train.patience", 2), "train.patience does nothing without"),
    "a metric without validation": (
        lambda p: p.train("--train.best_metric", "auc"),
        "train.best_metric does nothing without validation: set train.eval_every_epochs",
    ),
    "a refit with validation": (
        lambda p: p.train("--train.refit", "true", "--train.eval_every_epochs", 1),
        "train.refit trains on what validation asks: set train.eval_every_epochs 0",
    ),
    "a refit by candidates of the batch alone": (
        lambda p: p.train("--train.refit", "true", "--softmax.uniform_negatives", 0),
        "train.refit needs softmax.uniform_negatives above 0",
    ),
    "a refit of tuning": (lambda p: (*p.tune(), "--train.refit", "true"), "train.refit is for pre-training on warm"),
    "k of 0": (lambda p: p.recommend("--k", 0), "--k"),
    # Places that cannot be written.
    "out in a file": (
        lambda p: p.recommend("--out", p.file("file", "") / "r", "--run-dir", p.tmp),
        "file/r: cannot be written",
    ),
    "predictions are a file": (
        lambda p: ("evaluate", "--run-dir", p.tmp, *EVALUATE, "--predictions", p.file("p.parquet", "")),
        "p.parquet: is a file; a data set is written as a folder of part files",
    ),
    # What needs a GPU.
    "cuda cluster": (
        lambda p: p.train("--tables.cluster", ROOT / "sharding" / "gpu-32.yaml"),
        r"sharding/gpu-32.yaml describes 4 machine\(s\) of 8 cuda ranks; this is 1 cpu rank\(s\), 1 per machine",
    ),
    "row-wise adam": (
        lambda p: p.train("--tables.optimizer", "partial_rowwise_adam"),
        "partial_rowwise_adam needs a GPU",
    ),
    "bfloat16": (lambda p: p.train("--train.precision", "bfloat16"), "train.precision bfloat16 needs a GPU"),
    # Folders that are not what they should be.
    # The run has no checkpoint: they are refused before one is looked for.
    "an attribute that a run does not predict": (
        lambda p: ("evaluate", "--run-dir", bare(p), "--task", "attribute"),
        "--task attribute needs a run trained with --train.objectives attribute$",
    ),
    "labels that a run does not predict": (
        lambda p: ("evaluate", "--run-dir", bare(p), "--task", "labels"),
        "--task labels needs a run trained with --train.objectives labels$",
    ),
    "an attribute by popularity": (
        lambda p: ("evaluate", "--run-dir", bare(p, "attribute"), "--task", "attribute", "--baseline", "popularity"),
        "--task attribute is not answered by a --baseline$",
    ),
    "predictions of an attribute": (
        lambda p: ("evaluate", "--run-dir", p.tuned, "--task", "attribute", "--predictions", p.out),
        "--predictions holds ranks of items, and task attribute ranks none$",
    ),
    "evaluate no run": (lambda p: ("evaluate", "--run-dir", p.data, *EVALUATE), "data: not a run"),
    "recommend no run": (lambda p: p.recommend("--run-dir", p.tmp), "not a run"),
    "a run that is a file": (
        lambda p: p.train("--run-dir", p.file("run", "")),
        "run is a file; --run-dir takes a folder",
    ),
    "a run below a file": (lambda p: p.train("--run-dir", p.file("run", "") / "a"), "run is a file"),
    "a run that cannot be written": (lambda p: p.train("--run-dir", "/proc/run"), r"/proc: cannot be written \("),
    "evaluate a file": (lambda p: ("evaluate", "--run-dir", p.file("run", ""), *EVALUATE), "run is a file"),
    "tune from a file": (lambda p: p.tune("--init", p.file("run", "")), "run: not a run"),
    "tune from no run": (lambda p: p.tune("--init", p.tmp / "absent"), "absent: not a run"),
    "tune from a tuned run": (
        lambda p: p.tune("--init", p.tuned),
        r"run is a tuned run \(ppr-light\); --init takes a pre-trained one",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_refused_command_says_one_line_and_writes_nothing(place: Place, name: str) -> None:
    command, pattern = COMMANDS[name]
    refused(run_command(*command(place)), pattern)
    assert not place.out.exists()


@pytest.mark.parametrize("name", ["no such method", "no such task", "no such objective"])
def test_a_part_that_does_not_exist_is_said_by_one_rank(place: Place, name: str) -> None:
    command, pattern = COMMANDS[name]
    done = run_command(*command(place), world_size=2, end_with_first=True)
    assert done.codes[0] == 2
    assert 0 not in done.codes
    assert len(done.lines) == 1, done
    assert re.match(f"ppr_dist: error: {pattern}", done.lines[0]), done


def test_a_batch_smaller_than_the_world_ends_all_ranks_together(place: Place) -> None:
    done = run_command(*place.train("--train.global_batch_size", 1), world_size=2, end_with_first=True)
    assert done.codes[0] == 2
    assert 0 not in done.codes
    assert re.fullmatch("ppr_dist: error: batch of 1 users is smaller .* 2 ranks\n", "".join(done.err)), done
    assert not place.out.exists()


def under_torchrun(tmp: Path, *argv: Any, ranks: int = 2, timeout: float = 120) -> tuple[int, str]:
    """Exit status and stderr; every process of the group is gone at the end, whatever happened."""
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    words += [f"--master-port={free_port()}", "-m", f"ppr_dist.{argv[0]}", *map(str, argv[1:])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with (tmp / "stderr").open("w+") as err:
        process = subprocess.Popen(words, stdout=err, stderr=err, env=environment, start_new_session=True)
        try:
            code = process.wait(timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        err.seek(0)
        return code, err.read()


def test_under_torchrun_one_rank_speaks_and_all_end(place: Place) -> None:
    code, err = under_torchrun(place.tmp, *place.train("--train.global_batch_size", 1))
    assert code != 0
    said = [line for line in err.splitlines() if "ppr_dist: error" in line]
    assert len(said) == 1, err
    assert "batch of 1 users is smaller than the world of 2 ranks" in said[0]
    assert not place.out.exists()


# Shards ------------------------------------------------------------------------------------------------------


def copied(place: Place) -> tuple[Path, UserStream]:
    """A copy of the data, and the stream of an epoch whose windows are single shards."""
    data = place.tmp / "data"
    shutil.copytree(place.data, data)
    stream = UserStream(data, load_manifest(data), "pretrain", batch=16, rank=0, world_size=1, shuffle_shards=1)
    assert stream.lanes == 1
    return data, stream


def last_shard(stream: UserStream) -> Path:
    """The shard that the first epoch reads last."""
    return stream.folder / stream._deal(0)[0].windows[-1][0].path


def test_a_truncated_shard_is_refused_before_training(place: Place) -> None:
    data, stream = copied(place)
    shard = last_shard(stream)
    shard.write_bytes(shard.read_bytes()[:-700])
    refused(run_command(*place.train("--data", data)), f"{shard.name}: .* bytes, the manifest states .*: truncated")
    assert not place.out.exists()
    shard.unlink()
    refused(run_command(*place.train("--data", data)), f"{shard.name}: shard is missing")


def corrupt(shard: Path, where: str) -> None:
    """Damage the first member of a shard, whose size stays."""
    size = shard.stat().st_size
    with tarfile.open(shard) as tar:
        member = tar.getmembers()[0]
    with shard.open("r+b") as file:
        if where == "header":
            file.seek(member.offset_data)
            file.write(b"\xff" * 64)
        else:  # still Arrow, but another number: what only a checksum can tell
            body = (shard.read_bytes()[member.offset_data :])[: member.size]
            with pa.ipc.open_stream(body) as reader:
                first_item = reader.read_next_batch().column("items").values[:2].to_numpy().tobytes()
            file.seek(member.offset_data + body.index(first_item))
            file.write(b"\x01")
    assert shard.stat().st_size == size


@pytest.mark.parametrize(
    ("where", "said"), [("header", ": member 0.*arrow: not a valid Arrow"), ("item", ": .*checksum")]
)
def test_a_corrupt_member_ends_training_and_leaves_the_last_good_checkpoint(
    place: Place, where: str, said: str
) -> None:
    data, stream = copied(place)
    shard = last_shard(stream)
    corrupt(shard, where)
    slow = ("--train.global_batch_size", 16, "--stream.shuffle_shards", 1, "--train.checkpoint_every", 1)
    done = run_command(*place.train("--data", data, *slow, "--train.log_every", 1))
    refused(done, re.escape(str(shard)) + said)
    steps = [json.loads(line)["step"] for line in (place.out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert 2 <= len(steps) < stream.steps
    kept = checkpoints(place.out)
    assert [p.name for p in kept] == [f"step-{step:08d}" for step in steps[-2:]]
    assert sorted((place.out / "checkpoints").iterdir()) == kept
    succeed("evaluate", "--run-dir", place.out, *EVALUATE)  # tune-test's shards are whole


def test_a_rank_that_meets_a_corrupt_member_says_so_and_ends(place: Place) -> None:
    data, stream = copied(place)
    shard = last_shard(stream)
    corrupt(shard, "header")
    slow = ("--train.global_batch_size", 16, "--stream.shuffle_shards", 1)
    done = run_command(*place.train("--data", data, *slow), world_size=2, end_with_first=True)
    assert 2 in done.codes
    assert 0 not in done.codes
    # The shard's users may fall to both ranks; else the other may see the broken connection before it is ended.
    said = [
        line for line in done.lines if not re.fullmatch(r"ppr_dist: rank [01] ends: another rank is gone \(.*\)", line)
    ]
    assert 1 <= len(said) <= 2, done
    assert all(re.match(rf"ppr_dist: error \(rank [01]\): {re.escape(str(shard))}", line) for line in said), done
    assert not checkpoints(place.out)
    assert not list((place.out / "checkpoints").iterdir())


# Runs that do not fit ----------------------------------------------------------------------------------------


def test_data_of_another_catalogue_is_refused(place: Place, other: Path) -> None:
    wrong = "run was trained on another catalogue"
    refused(run_command("evaluate", "--run-dir", place.tuned, "--data", other, *EVALUATE), wrong)
    refused(run_command(*place.tune("--data", other)), wrong)
    refused(run_command(*place.recommend("--data", other)), wrong)
    assert not place.out.exists()


def test_a_run_does_not_resume_on_changed_data_nor_begin_anew(place: Place, raw: Path) -> None:
    data = place.tmp / "data"
    prepare_tiny(raw, data, seed=0)
    command = place.train("--data", data, "--train.max_steps", 2)
    succeed(*command)
    before = content(place.out)
    refused(run_command(*command), "out already holds a run; pass --resume")
    assert content(place.out) == before
    again = (*place.train("--data", data, "--train.max_steps", 3), "--resume")
    refused(run_command(*again, "--train.global_batch_size", 16), "checkpoint was written with batch 32, now 16")
    refused(run_command(*again, "--sasrec.layers", 2), "out has sasrec.layers 1; resume it with --sasrec.layers 1")
    assert content(place.out) == before
    shutil.rmtree(data)
    prepare_tiny(raw, data, seed=1)
    refused(run_command(*again), "checkpoint was written with other data")
    assert content(place.out) == before
    shutil.rmtree(data)
    prepare_tiny(raw, data, seed=0)
    succeed(*again)
    assert [p.name for p in checkpoints(place.out)] == ["step-00000002", "step-00000003"]


def as_the_version_before(run: Path) -> None:
    """``run.json`` as it was before stages had that name."""
    body = json.loads((run / "run.json").read_text())
    body["job"] = body.pop("stage")
    (run / "run.json").write_text(json.dumps(body))


def test_a_run_of_the_version_before_is_refused(place: Place) -> None:
    old, words = place.tmp / "old", ("--train.max_steps", 9, "--resume")
    for run, commands in {
        place.pretrained: (place.tune("--init", old), (*place.train("--run-dir", old), *words)),
        place.tuned: (
            ("evaluate", "--run-dir", old, *EVALUATE),
            place.recommend("--run-dir", old),
            (*place.tune("--run-dir", old), *words),
        ),
    }.items():
        shutil.copytree(run, old)
        as_the_version_before(old)
        before = content(old)
        for command in commands:
            refused(run_command(*command), f"{old}: written by an earlier version of ppr_dist; train again")
        assert content(old) == before
        shutil.rmtree(old)
    assert not place.out.exists()


# Damaged runs ------------------------------------------------------------------------------------------------


class Touch:
    """Pickles to a call that makes the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def call(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls ``module.name(argument)``."""

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


def payloads(trap: Path) -> dict[str, bytes]:
    (trap.parent / "inner").write_bytes(pickle.dumps(Touch(trap)))
    found = {"plain": pickle.dumps(Touch(trap))}
    for module in ("torch.distributed.checkpoint.filesystem", "torch.serialization", "torch.distributed.checkpoint"):
        found[f"through {module}"] = call(module, "os.mkdir", str(trap))
    found["a second pickle"] = call("torch.serialization", "load", str(trap.parent / "inner"))
    found["an import"] = call("torch.distributed.checkpoint._extension", "importlib.import_module", "this")
    return found


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no checkpoint": (lambda c: shutil.rmtree(c), "no checkpoint in .*checkpoints"),
    "metadata truncated": (lambda c: _shorten(c / ".metadata"), r"\.metadata: damaged, or not checkpoint data"),
    "metadata missing": (lambda c: (c / ".metadata").unlink(), r"\.metadata: cannot be read \(No such file"),
    "metadata of a list": (lambda c: (c / ".metadata").write_bytes(pickle.dumps([1])), r"\.metadata: damaged.*list"),
    "metadata of noise": (lambda c: (c / ".metadata").write_bytes(bytes(range(256))), r"\.metadata: damaged, or not"),
    "tensors truncated": (
        lambda c: _shorten(next(c.glob("*.distcp"))),
        r"/__0_0\.distcp: damaged, or not checkpoint data$",
    ),
    "tensors of noise": (
        lambda c: next(c.glob("*.distcp")).write_bytes(bytes(range(256)) * 4096),
        r"/__0_0\.distcp: damaged, or not checkpoint data$",
    ),
    "tensors that would run": (
        lambda c: next(c.glob("*.distcp")).write_bytes(pickle.dumps(Touch(c / "trap")) * 9999),
        r"/__0_0\.distcp: damaged, or not checkpoint data$",
    ),
    "tensors missing": (
        lambda c: next(c.glob("*.distcp")).unlink(),
        r"/__0_0\.distcp: cannot be read \(No such file or directory\)$",
    ),
    "no config": (lambda c: (c.parents[1] / "config.yaml").unlink(), "config.yaml: no such file"),
    "config of another version": (
        lambda c: (c.parents[1] / "config.yaml").write_text("train:\n  rate: 1\n"),
        r"config.yaml: .*rate: no such option \(where another version of ppr_dist wrote it: train again\)$",
    ),
    "config of another version's parts": (
        lambda c: _replace(c.parents[1] / "config.yaml", "backbone: sasrec", "backbone: gru5rec"),
        "config.yaml: model.backbone 'gru5rec': there is none",
    ),
    "run.json truncated": (lambda c: _shorten(c.parents[1] / "run.json"), "run.json: cannot be read"),
    "config of another model": (
        lambda c: _replace(c.parents[1] / "config.yaml", "max_length: 12", "max_length: 13"),
        "step-[0-9]*: does not fit this model",
    ),
}


def _shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _replace(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_refused(place: Place, name: str) -> None:
    """Also where whoever damaged it has seen to the checksums."""
    damage, pattern = DAMAGE[name]
    run = place.tmp / "run"
    shutil.copytree(place.tuned, run)
    (checkpoints(run)[-1] / CHECKSUMS).unlink()
    damage(checkpoints(run)[-1])
    before = content(run)
    refused(run_command(*place.recommend("--run-dir", run)), pattern)
    assert content(run) == before
    assert not place.out.exists()


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "position.json"])
def test_a_changed_byte_is_found(place: Place, name: str) -> None:
    run = place.tmp / "run"
    shutil.copytree(place.tuned, run)
    file = checkpoints(run)[-1] / name
    content_of = bytearray(file.read_bytes())
    content_of[len(content_of) // 2] ^= 1
    file.write_bytes(content_of)
    refused(run_command("verify", "--run-dir", run), rf"{name}: damaged: its SHA-256 is not the one")
    if name == "__0_0.distcp":  # of the others a change may be one that is no fault to read
        refused(run_command(*place.recommend("--run-dir", run)), rf"{name}: damaged: its SHA-256 is not the one")


def test_a_damaged_position_is_refused_on_resume(place: Place) -> None:
    shutil.copytree(place.pretrained, place.out)
    _shorten(checkpoints(place.out)[-1] / "position.json")
    before = content(place.out)
    refused(run_command(*place.train("--resume")), "position.json: cannot be read")
    assert content(place.out) == before


def test_a_checkpoint_cannot_run_code(place: Place) -> None:
    run, trap = place.tmp / "run", place.tmp / "trap"
    shutil.copytree(place.tuned, run)
    for name, payload in payloads(trap).items():
        (checkpoints(run)[-1] / ".metadata").write_bytes(payload)
        done = run_command("evaluate", "--run-dir", run, *EVALUATE)
        assert not trap.exists(), name
        refused(done, r"\.metadata.*not checkpoint data")


# Sections of parts --------------------------------------------------------------------------------------------


def test_sections_of_parts_that_are_not_chosen_may_stand_in_the_file(place: Place) -> None:
    """One file for several commands: what a command does not choose is checked and not used."""
    others = {"gru4rec": {"layers": 3}, "bpr": {"uniform_negatives": 7}, "adapter": {"bottleneck": 4}}
    config = ("--config", place.file("all.yaml", yaml.safe_dump(others | {"prompt": {"tokens": 2}})))
    succeed(*place.train(*config, "--train.max_steps", 1))
    used = yaml.safe_load((place.out / "config.yaml").read_text())
    assert {"model", "sasrec", "softmax"} <= used.keys()
    assert not {*others, "bce", "prompt", "contrastive"} & used.keys()
    succeed(*place.train(*config, "--train.max_steps", 2, "--resume"))
    succeed(*place.tune("--run-dir", place.tmp / "tuned"), *config, "--train.max_steps", 1)
    used = yaml.safe_load((place.tmp / "tuned" / "config.yaml").read_text())
    assert used["prompt"]["tokens"] == 2
    assert not others.keys() & used.keys()


def test_objectives_are_added_up(place: Place) -> None:
    two = ("--train.objectives", "softmax", "bpr", "--bpr.uniform_negatives", 3)
    done = succeed(*place.train(*two, "--train.log_every", 1, "--train.max_steps", 2))
    rows = [row for row in read_lines(place.out / "metrics.jsonl") if "loss" in row]
    assert len(rows) == 2
    assert all(row["loss"] == pytest.approx(row["loss/softmax"] + row["loss/bpr"], rel=1e-6) for row in rows), done
    used = yaml.safe_load((place.out / "config.yaml").read_text())
    assert (used["train"]["objectives"], used["bpr"]) == (["softmax", "bpr"], {"uniform_negatives": 3})


# Defaults ----------------------------------------------------------------------------------------------------


def test_a_user_never_seen_is_served_from_the_profile(place: Place) -> None:
    users = pd.DataFrame({"user_id": [10**12, 10**12 + 1], "age": [None, 30], "gender": [None, "female"]})
    users.assign(city=None).to_parquet(place.tmp / "new.parquet")
    succeed(*place.recommend("--users", place.tmp / "new.parquet", "--k", 5))
    found = pd.read_parquet(place.out / "r.parquet")
    assert found.user_id.tolist() == [10**12] * 5 + [10**12 + 1] * 5
    assert found["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    assert found.item_id.notna().all()


def test_an_attribute_that_is_null_for_everyone_is_said_and_unknown(place: Place) -> None:
    users = pd.read_parquet(place.raw / "users.parquet").assign(city=None)
    users.to_parquet(place.tmp / "users.parquet")
    data = place.tmp / "data"
    words = ("--interactions", place.raw / "interactions.parquet", "--users", place.tmp / "users.parquet")
    done = succeed("prepare", *words, "--out", data, "--buckets.age", 5)
    warnings = [line for line in done.lines if "warning" in line]
    assert len(warnings) == 1
    assert re.search("warning: .*users.parquet: column 'city' is null for every user", warnings[0])
    assert {a.name: a.cardinality for a in load_manifest(data).attributes} == {"age": 6, "gender": 3, "city": 1}
    succeed(*place.train("--data", data, "--train.max_steps", 1))
    run = place.tmp / "run"
    succeed(*place.tune("--data", data, "--init", place.out, "--run-dir", run), "--train.max_steps", 1)
    users.assign(city="Oslo").to_parquet(place.tmp / "users.parquet")
    succeed(
        *place.recommend("--run-dir", run, "--users", place.tmp / "users.parquet", "--out", place.tmp / "r.parquet")
    )


def test_a_rank_without_users_in_a_step_takes_part(place: Place) -> None:
    users = load_manifest(place.data).split("tune-train").users
    world_size = 2 if users % 2 else 3
    assert users % world_size, "the first step must be short of a user"
    few = ("--train.global_batch_size", world_size, "--train.max_steps", 2, "--train.log_every", 1)
    succeed(*place.tune(), *few, world_size=world_size)
    losses = [row["loss"] for row in read_lines(place.out / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
