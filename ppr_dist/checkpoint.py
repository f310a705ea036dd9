"""Checkpoints: tables through DCP, dense state by parameter name, atomic on disk.

Layout: ``RUN/checkpoints/step-00000100/`` with DCP's files and ``position.json``. A folder of that name is complete:
it is written as ``.step-…`` and renamed at the end, and back before it is deleted.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from ppr_dist import checkpoint_files
from ppr_dist.certificate import Span
from ppr_dist.checkpoint_data import load, names
from ppr_dist.checkpoint_files import sync
from ppr_dist.data.stream.user_stream import StreamState
from ppr_dist.errors import UserError, warn
from ppr_dist.parallel import dense
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.distributed import on_main
from ppr_dist.parallel.embeddings import ShardedEmbeddings

SETTLED_WITHIN = 20.0
"""Seconds; under torchrun the other ranks have 30 from the first one's end on."""
_NAME = re.compile(r"step-(\d{8})")
_DENSE = "dense.parameter."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best:
    """The best validation so far."""

    metric: str
    value: float
    step: int
    """Where it was; the checkpoint of that step is kept."""
    since: int = 0
    """Validations after it, none of them better."""

    def then(self, value: float, step: int) -> Best:
        """What is best after one more validation. A tie is no better, nor is what is not a number."""
        if value > self.value or (math.isnan(self.value) and not math.isnan(value)):
            return Best(metric=self.metric, value=value, step=step)
        return dataclasses.replace(self, since=self.since + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands, small enough for JSON."""

    step: int
    """Steps done in all epochs."""
    stream: StreamState
    """The data the run was reading, as of its first step."""
    world_size: int
    best: Best | None = None
    """None before the first validation."""
    trained: tuple[Span, ...] = ()
    """What has been trained up to here (:mod:`ppr_dist.certificate`)."""


class Checkpointer:
    """Writes a run's checkpoints, one at a time, and finds the one to go on from.

    Asynchronously, it is copied to the host's memory and written by a thread, which talks to those of the other ranks
    over a process group of its own.
    """

    def __init__(
        self,
        run: Path,
        keep: int,
        *,
        keep_every: int | None = None,
        asynchronous: bool = False,
        go_on_where_it_fails: bool = False,
    ) -> None:
        """``keep``: latest checkpoints that stay; ``keep_every``: those of which steps stay for good. A collective."""
        self.run, self.keep, self.keep_every = run, keep, keep_every
        self.asynchronous, self.go_on_where_it_fails = asynchronous, go_on_where_it_fails
        self._group = dist.new_group(backend="gloo") if asynchronous else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._stager = BlockingAsyncStager(cache_staged_state_dict=torch.cuda.is_available())
        self._writing: Future[None] | None = None

    @property
    def failed(self) -> bool:
        """Whether a checkpoint under way has failed on this rank; :meth:`finish` says why."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def save(self, parallel: Parallel, position: Position, *, last: bool = False) -> None:
        """Write a checkpoint; the previous ones stay until it is complete. A collective.

        ``last``: wait until it is written, and raise :class:`UserError` where it cannot be.
        """
        self.finish()
        folder = checkpoint_of(self.run, position.step)
        if on_main(folder.exists):
            return
        if self.asynchronous and not last:
            state = self._stager.stage(_state(parallel))
            self._writing = self._thread.submit(self._write, state, folder, position)
        else:
            self._writing = Future()
            try:
                self._write(_state(parallel), folder, position)
                self._writing.set_result(None)
            except (Exception, CheckpointException) as error:  # as the thread would hold it
                self._writing.set_exception(error)
            self.finish(last=last)

    def finish(self, *, last: bool = False) -> None:
        """Wait for the checkpoint under way, if there is one. A collective.

        Raises :class:`UserError` on all ranks where it could not be written, or says so and goes on, as it was told to.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        error = writing.exception()  # waits; rank 0 has every rank's
        if failure := on_main(lambda: error and _why(error, self.run)):
            left = on_main(lambda: self._leave_no_part())
            if last or not self.go_on_where_it_fails:
                raise UserError(f"{failure}; {left}")
            if dist.get_rank() == 0:
                warn(f"{failure}; {left}, and training goes on")

    def settle(self) -> None:
        """Give the checkpoint under way time to be complete where this rank is about to end by an error."""
        if self._writing is not None:
            wait([self._writing], SETTLED_WITHIN)

    def _write(self, state: dict[str, Any], folder: Path, position: Position) -> None:
        """Write, then give it its name: on every rank together, the end on rank 0."""
        partial, main = folder.with_name("." + folder.name), dist.get_rank() == 0
        if main:
            shutil.rmtree(partial, ignore_errors=True)
        writer = checkpoint_files.Writer(partial)
        dcp.save(state, storage_writer=writer, process_group=self._group)
        if main:
            self._complete(partial, folder, position, writer.sums)

    def _complete(self, partial: Path, folder: Path, position: Position, sums: dict[str, str]) -> None:
        (partial / "position.json").write_text(json.dumps(dataclasses.asdict(position), indent=1) + "\n")
        before = checkpoints(self.run)
        checkpoint_files.seal(partial, sums, before[-1] if before else None)
        os.replace(partial, folder)
        sync(folder.parent)
        best = position.best and checkpoint_of(self.run, position.best.step)
        for old in checkpoints(self.run)[: -self.keep]:
            if old != best and not (self.keep_every and step_of(old) % self.keep_every == 0):
                self._drop(old)

    def _leave_no_part(self) -> str:
        """Free what a failed checkpoint takes, and say which one there is."""
        self.sweep()
        there = checkpoints(self.run)
        return f"the last complete checkpoint is {there[-1]}" if there else "there is no checkpoint yet"

    def _drop(self, old: Path) -> None:
        """Delete a checkpoint, first its name; where that fails, say so and go on: the next save tries again."""
        try:
            self.sweep()
            os.replace(old, old.with_name("." + old.name))
        except OSError as error:
            warn(f"{old}: {error.strerror}: an old checkpoint stays")
        self.sweep()

    def sweep(self) -> None:
        """Delete what is no checkpoint (any more): half-written ones of a killed run, and old ones.

        What cannot be deleted is said and left: training goes on, and the next sweep tries again.
        """
        for folder in (self.run / "checkpoints").glob(".step-*"):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                warn(f"{error.filename or folder}: {error.strerror or error}: the rest of an old checkpoint stays")

    def resume(self, parallel: Parallel, stream: StreamState) -> Position | None:
        """Load the latest checkpoint, if there is one; return where it stands. A collective.

        On any number of ranks, under any sharding and ZeRO stage. Raises :class:`UserError` where it belongs to other
        data or another configuration.
        """
        found = on_main(lambda: checkpoints(self.run))
        if not found:
            return None
        position = on_main(lambda: read_position(found[-1]))
        stream.check_resumes(position.stream)
        state = _state(parallel)
        load(state, found[-1])  # tables and their optimizer in place
        parallel.embeddings.set_optimizer_steps(state["tables_steps"])
        dense.load_state_dict(parallel.engine, state["dense"])
        return position


def _state(parallel: Parallel) -> dict[str, Any]:
    return {
        "tables": parallel.embeddings.state_dict(),
        "tables_optimizer": parallel.embeddings.optimizer_state_dict(),
        "tables_steps": parallel.embeddings.optimizer_steps(),
        "dense": dense.state_dict(parallel.engine),
    }


def checkpoint_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies, or would."""
    return run / "checkpoints" / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """The checkpoint of a run that is used."""

    path: Path
    step: int
    best: Best | None
    """By what it was chosen; None: it is the latest."""

    def __str__(self) -> str:
        why = f"best {self.best.metric} of validation, {self.best.value:.4f}" if self.best else "the last"
        return f"{self.path.parents[1]}: step {self.step} ({why})"


def chosen(run: Path) -> Chosen:
    """The best checkpoint of a run where validation chose one, else the latest.

    Raises :class:`UserError` where there is none.
    """
    found = checkpoints(run)
    if not found:
        raise UserError(f"{run}: no checkpoint in {run / 'checkpoints'}")
    last = read_position(found[-1])
    if last.best is None:
        return Chosen(path=found[-1], step=last.step, best=None)
    best = checkpoint_of(run, last.best.step)
    if best not in found:
        raise UserError(f"{best}: gone, though {found[-1].name} says that it is the best")
    return Chosen(path=best, step=last.best.step, best=last.best)


def read_position(checkpoint: Path) -> Position:
    path = checkpoint / "position.json"
    try:
        body = json.loads(path.read_text())
        best = Best(**body["best"]) if body["best"] is not None else None
        trained = tuple(Span(**span) for span in body.get("trained", ()))
        return Position(**{**body, "stream": StreamState(**body["stream"]), "best": best, "trained": trained})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def load_tables(embeddings: ShardedEmbeddings, checkpoint: Path, *, with_optimizer: bool, strict: bool = False) -> None:
    """Load the tables a model shares with ``checkpoint``; the others keep their values. A collective.

    ``with_optimizer``: their optimizer state too, so that a table goes on with steps of the size it had come to;
    ``strict``: raise :class:`UserError` naming a table that only one of the two has.
    """
    saved = names(checkpoint)
    if strict:
        there = {key.removeprefix("tables.") for key in saved if key.startswith("tables.")}
        _refuse_another_model(checkpoint, there, set(embeddings.state_dict()))
    state: dict[str, Any] = {"tables": {k: v for k, v in embeddings.state_dict().items() if f"tables.{k}" in saved}}
    if with_optimizer:
        prefixes = {key.removeprefix("tables_optimizer.") for key in saved if key.startswith("tables_optimizer.")}
        state["tables_optimizer"] = {
            table: moments
            for table, moments in embeddings.optimizer_state_dict().items()
            if all(f"{table}.{name}" in prefixes for name in moments)
        }
        # A collection has one count: new tables beside old ones begin at 0 with them.
        new = {key.split(".")[0] for key in embeddings.state_dict() if f"tables.{key}" not in saved}
        steps = {name: step for name, step in embeddings.optimizer_steps().items() if name not in new}
        state["tables_steps"] = steps
    load(state, checkpoint)
    if with_optimizer:
        embeddings.set_optimizer_steps(state["tables_steps"])


def load_dense(module: torch.nn.Module, checkpoint: Path) -> None:
    """Load all parameters by name into a module outside any engine. A collective.

    Raises :class:`UserError` naming a parameter that only one of the two has.
    """
    saved = {key.removeprefix(_DENSE) for key in names(checkpoint) if key.startswith(_DENSE)}
    state = {name: parameter.detach().float().cpu().clone() for name, parameter in module.named_parameters()}
    _refuse_another_model(checkpoint, saved, set(state))
    load({"dense": {f"parameter.{name}": value for name, value in state.items()}}, checkpoint)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(state[name])


def _refuse_another_model(checkpoint: Path, saved: set[str], asked: set[str]) -> None:
    if unlike := saved ^ asked:
        where = "only it has" if unlike & saved else "it has no"
        raise UserError(f"{checkpoint}: holds another model: {where} {min(unlike & saved or unlike)}; train again")


def _why(error: BaseException, run: Path) -> str:
    """A line on why a checkpoint could not be written, of the failures of all ranks where DCP has gathered them."""
    causes = [each for each, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    cause = next((each for each in causes if isinstance(each, OSError)), causes[0])
    if isinstance(cause, OSError):
        what = f"{cause.filename}: {cause.strerror}" if cause.filename else str(cause.strerror)
    # torch.save's words for any failed write.
    elif "inline_container" in str(cause) or "PytorchStreamWriter" in str(cause):
        what = f"a write failed ({shutil.disk_usage(run).free / 1e6:,.0f} MB are free there)"
    else:
        what = " ".join(str(cause).split()) or type(cause).__name__
    return f"a checkpoint cannot be written: {what}"
