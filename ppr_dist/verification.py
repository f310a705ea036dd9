"""Proofs about a run, from its files."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ppr_dist import read_config, runs
from ppr_dist import tune as tune_command
from ppr_dist.arrays import Int64Array
from ppr_dist.checkpoint import base_checkpoint, checksums, reader
from ppr_dist.checkpoint.certificate import MODULUS, Span, hash_of, of_steps
from ppr_dist.checkpoint.position import Position, checkpoint_of, checkpoints, read_position, step_of
from ppr_dist.checkpoint.wrong_steps import Step, name_fault
from ppr_dist.config import Logging
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.remote import here
from ppr_dist.data.stream.user_stream import UserStream, users_in_order
from ppr_dist.errors import UserError
from ppr_dist.parallel.distributed import distributed_context, on_main
from ppr_dist.pretrain import Arguments as PretrainArguments
from ppr_dist.training import pretrain, tune

if TYPE_CHECKING:
    from ppr_dist.verify import Arguments


def verify(arguments: Arguments) -> None:
    """Print what was proved; raise :class:`UserError` naming what does not hold."""
    with distributed_context() as context:
        on_main(lambda: _verify_files(arguments))
        span = arguments.replay and on_main(lambda: _span_to_replay(arguments, context.world_size))
    if span:
        _replay(arguments, *span)


def _verify_files(arguments: Arguments) -> None:
    run = arguments.run_dir
    _, info = runs.read(run)
    found = checkpoints(run)
    if not found:
        raise UserError(f"{run}: no checkpoint in {run / 'checkpoints'}")
    check_chain(found)
    if info.base:
        under = base_checkpoint.find(info.base, run, arguments.init).path
        if damage := checksums.find_damage(under):
            raise UserError(damage)
        print(f"they stand on {under}, which is the one they were tuned from")
    print(f"{len(found)} checkpoint(s) whole: {', '.join(path.name for path in found)}")
    position = read_position(found[-1])
    print(check_trained(position, read_stream(arguments.data or here(info.data), position)), flush=True)


def check_chain(found: list[Path]) -> None:
    """Raise :class:`UserError` where a file of checkpoints (oldest first) is damaged, or one is not of the same run."""
    by_name = {path.name: path for path in found}
    for path in found:
        sums = checksums.read_sums(path)
        if sums is None:
            raise UserError(f"{path}: written without checksums, by an earlier version; it proves nothing")
        there = {file.name for file in path.iterdir()} - {checksums.CHECKSUMS}
        if extra := there - set(sums["files"]):
            raise UserError(f"{path / min(extra)}: not a file of this checkpoint")
        if damage := checksums.find_damage(path):
            raise UserError(damage)
        previous = sums["previous"]
        # One that is no longer kept proves nothing; one that is here must be the one that was followed.
        if previous and previous["name"] in by_name:
            if checksums.chain_link(by_name[previous["name"]]) != previous["sha256"]:
                raise UserError(f"{path}: does not follow {previous['name']}: one was changed, or is another run's")
        elif previous is None and path != found[0]:
            raise UserError(f"{path}: follows none of the checkpoints before it: it is another run's")


def check_trained(position: Position, stream: UserStream) -> str:
    """Say what was trained; raise :class:`UserError` where it is not every user exactly once in each epoch."""
    start = 0
    for span in position.trained:
        if span.start != start:
            break
        if int(span.users, 16) != of_steps(_users(stream, span.start, span.stop)):
            fault = _name_fault(span, stream) or "some were left out, repeated or trained in another step"
            raise UserError(f"steps {span.start} to {span.stop - 1}: not the users that were to be trained: {fault}")
        start = span.stop
    if start != position.step:
        raise UserError(f"steps {start} to {position.step - 1}: nothing says what was trained")
    whole, rest = divmod(position.step, stream.steps)
    if whole and sum(hash_of(u) for _, _, u in _users(stream, 0, stream.steps)) % MODULUS != _hash_of_split(stream):
        raise UserError("an epoch of the stream is not every user once")
    users = stream.manifest.split(stream.split).users
    sizes = [span.world_size for span in position.trained]
    changes = [now for before, now in itertools.pairwise([0, *sizes]) if now != before]
    ranks = ", then ".join(map(str, changes))
    if len(changes) > 4:
        ranks = f"{min(sizes)} to {max(sizes)} ({len(changes) - 1} changes)"
    text = f"steps 0 to {position.step - 1}, on {ranks} rank(s): "
    if whole:
        text += f"{whole} epoch(s), in each of which each of {users} users was trained exactly once"
    if rest:
        text += f"{'; then ' if whole else ''}{rest} of the {stream.steps} steps of an epoch, each of its users once"
    return text


def read_stream(data: Path, position: Position) -> UserStream:
    """What was to be read, as one rank reads it."""
    saved = position.stream
    stream = UserStream(
        data,
        load_manifest(data),
        saved.split,
        batch=saved.batch,
        rank=0,
        world_size=1,
        seed=saved.seed,
        shuffle_shards=saved.shuffle_shards,
    )
    stream.state().check_resumes(saved)
    return stream


def _users(stream: UserStream, start: int, stop: int) -> Iterator[tuple[int, int, Int64Array]]:
    """(Epoch, step, users of the global batch) of steps [start, stop) of a run."""
    for epoch in range(start // stream.steps, -(-stop // stream.steps)):
        first = epoch * stream.steps
        steps = range(max(start - first, 0), min(stop - first, stream.steps))
        for step, _, users in stream.batches(epoch, steps):
            yield epoch, first + step, users.index


def _name_fault(span: Span, stream: UserStream) -> str | None:
    first = max(span.start - 1, 0)
    steps = [Step(*each) for each in _users(stream, first, span.stop + 1)]
    before = steps.pop(0) if first < span.start else None
    return name_fault(int(span.users, 16), steps[:-1], (before, steps[-1]))


def _hash_of_split(stream: UserStream) -> int:
    """Of all users, as the shards have them."""
    _, blocks = users_in_order(stream.folder, stream.manifest, stream.split, rank=0, world_size=1, at_once=65_536)
    return sum(hash_of(users.index) for users in blocks) % MODULUS


def _span_to_replay(arguments: Arguments, world_size: int) -> tuple[Path, Path]:
    """The two checkpoints of ``--replay``; raise :class:`UserError` where what lies between cannot be trained alike."""
    run = arguments.run_dir
    try:
        first, last = (checkpoint_of(run, int(step)) for step in str(arguments.replay).split(":"))
    except ValueError as error:
        raise UserError(f"--replay {arguments.replay}: A:B, the steps of two checkpoints") from error
    there = ", ".join(str(step_of(path)) for path in checkpoints(run))
    for path in (first, last):
        if not path.is_dir():
            raise UserError(f"--replay {arguments.replay}: no checkpoint of step {step_of(path)}; there are {there}")
    if step_of(first) >= step_of(last):
        raise UserError(f"--replay {arguments.replay}: the first is to be the earlier one")
    options = read_position(last).trained[-1].options
    between = (span for span in read_position(last).trained if span.stop > step_of(first))
    for span in between:
        steps = f"steps {span.start} to {span.stop - 1} were trained"
        if span.world_size != world_size:
            raise UserError(
                f"{steps} on {span.world_size} rank(s), this is {world_size}: rounding differs; replay on as many"
            )
        if span.options != options:
            raise UserError(
                f"{steps} with other options than those before {last.name}: replay each part for itself, A:B being "
                f"two of {there}"
            )
    return first, last


def _replay(arguments: Arguments, first: Path, last: Path) -> None:
    """Train from ``first`` in a folder of its own and compare with ``last``. A collective."""
    run, stop = arguments.run_dir, step_of(last)
    _, info = runs.read(run)
    folder = run / ".replay"
    kept = last / "config.yaml"  # the options it was trained with; an earlier version kept the run's last ones alone
    config = read_config.read(kept if kept.is_file() else run / "config.yaml")
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(
            config.train,
            max_steps=stop,
            max_minutes=None,
            checkpoint_every=None,
            keep_checkpoints=stop,
            eval_every_epochs=0,
            best_metric=None,
            patience=None,
        ),
        logging=Logging(progress=False),
    )
    with distributed_context():
        on_main(lambda: _make_replay(folder, run, first))  # in place of what a replay that failed has left
    data = arguments.data or here(info.data)
    splits: Any = read_position(first).stream.split.split("+")
    if info.method is None:
        pretrain(PretrainArguments(data=data, run_dir=folder, resume=True, split=splits), config)
    else:
        assert info.init is not None
        asked = tune_command.Arguments(
            data=data,
            init=arguments.init or Path(info.init),
            method=info.method,
            run_dir=folder,
            resume=True,
            split=splits,
            new_catalogue=info.new_catalogue,
        )
        tune(asked, config, collections.defaultdict(dict))
    with distributed_context():
        on_main(lambda: _compare(checkpoint_of(folder, stop), last))
        on_main(lambda: shutil.rmtree(folder))


def _make_replay(folder: Path, run: Path, first: Path) -> None:
    """A run that stands where ``first`` was written."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / first.name).symlink_to(first.resolve(), target_is_directory=True)
    for name in ("config.yaml", "run.json"):
        shutil.copy(run / name, folder / name)


def _compare(again: Path, saved: Path) -> None:
    """Raise :class:`UserError` where two checkpoints hold other values."""
    names = reader.names(saved)
    for name in sorted(names | reader.names(again)):
        one, other = (reader.read_tensor(path, name) for path in (saved, again))
        if not torch.equal(one, other):
            raise UserError(
                f"{saved}: {name} is not what training again comes to: {int((one != other).sum())} of {one.numel()} "
                f"values differ, by {float((one.double() - other.double()).abs().max()):.3g} at most"
            )
    print(f"{saved.name}: trained again, all {len(names)} tensors are equal to the bit", flush=True)
