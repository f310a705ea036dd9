"""Checkpoints: tables through DCP, dense state by parameter name, atomic on disk.

Layout: ``RUN/checkpoints/step-00000100/`` with DCP's files, ``position.json`` and ``config.yaml``. A folder of that
name is complete: it is written as ``.step-…`` and renamed at the end, and back before it is deleted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from ppr_dist.checkpoint import base_checkpoint, checksums
from ppr_dist.checkpoint.checksums import sync
from ppr_dist.checkpoint.position import Position, checkpoint_of, checkpoints, read_position, step_of
from ppr_dist.checkpoint.reader import load
from ppr_dist.data.stream.user_stream import StreamState
from ppr_dist.errors import UserError, warn
from ppr_dist.parallel import dense
from ppr_dist.parallel.apply import Parallel
from ppr_dist.parallel.distributed import on_main

SETTLED_WITHIN = 20.0
"""Seconds; under torchrun the other ranks have 30 from the first one's end on."""


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
        frozen: bool = True,
    ) -> None:
        """``keep``: latest checkpoints that stay; ``keep_every``: those of which steps stay for good; ``frozen``: they
        hold what is not trainable too. A collective.
        """
        self.run, self.keep, self.keep_every = run, keep, keep_every
        self.asynchronous, self.go_on_where_it_fails = asynchronous, go_on_where_it_fails
        self.frozen = frozen
        self._group = dist.new_group(backend="gloo") if asynchronous else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._stager = BlockingAsyncStager(cache_staged_state_dict=torch.cuda.is_available())
        self._writing: Future[None] | None = None
        self._needed = True
        """Whether the run cannot go on without the checkpoint under way."""

    @property
    def failed(self) -> bool:
        """Whether a checkpoint under way has failed on this rank; :meth:`finish` says why."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def save(self, parallel: Parallel, position: Position, *, last: bool = False) -> None:
        """Write a checkpoint; the previous ones stay until it is complete. A collective.

        ``last``: wait until it is written, and raise :class:`UserError` where it cannot be. So it is raised for the
        best, which later checkpoints refer to.
        """
        self.finish()
        self._needed = last or (position.best is not None and position.best.step == position.step)
        folder = checkpoint_of(self.run, position.step)
        if on_main(folder.exists):
            return
        if self.asynchronous and not last:
            state = self._stager.stage(_state(parallel, frozen=self.frozen))
            self._writing = self._thread.submit(self._write, state, folder, position)
        else:
            self._writing = Future()
            try:
                self._write(_state(parallel, frozen=self.frozen), folder, position)
                self._writing.set_result(None)
            except (Exception, CheckpointException) as error:  # as the thread would hold it
                self._writing.set_exception(error)
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint under way, if there is one. A collective.

        Raises :class:`UserError` on all ranks where it could not be written, or says so and goes on, as it was told to.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        error = writing.exception()  # waits; rank 0 has every rank's
        if failure := on_main(lambda: error and _why(error, self.run)):
            left = on_main(self._leave_no_part)
            if self._needed or not self.go_on_where_it_fails:
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
        writer = checksums.Writer(partial)
        dcp.save(state, storage_writer=writer, process_group=self._group)
        if main:
            self._complete(partial, folder, position, writer.sums)

    def _complete(self, partial: Path, folder: Path, position: Position, sums: dict[str, str]) -> None:
        (partial / "position.json").write_text(json.dumps(dataclasses.asdict(position), indent=1) + "\n")
        if (config := self.run / "config.yaml").is_file():
            shutil.copy(config, partial)  # the run's may be another one at its next start
        before = checkpoints(self.run)
        checksums.seal(partial, sums, before[-1] if before else None)
        os.replace(partial, folder)
        sync(folder.parent)
        best = position.best and checkpoint_of(self.run, position.best.step)
        for old in checkpoints(self.run)[: -self.keep]:
            for_good = self.keep_every is not None and step_of(old) % self.keep_every == 0
            if not (old == best or for_good or base_checkpoint.is_kept(old)):
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

        On any number of ranks, under any sharding and ZeRO stage; what it does not hold stays as it is. Raises
        :class:`UserError` where it belongs to other data or another configuration.
        """
        found = on_main(lambda: checkpoints(self.run))
        if not found:
            return None
        position = on_main(lambda: read_position(found[-1]))
        stream.check_resumes(position.stream)
        state = _state(parallel, frozen=self.frozen)
        load(state, found[-1])  # tables and their optimizer in place
        parallel.embeddings.set_optimizer_steps(state.get("tables_steps", {}))
        dense.load_state_dict(parallel.engine, state["dense"])
        return position


def _state(parallel: Parallel, *, frozen: bool) -> dict[str, Any]:
    """All that a checkpoint holds; without ``frozen`` what is trainable alone, and then nothing of a frozen table."""
    embeddings = parallel.embeddings
    state = {
        "tables": embeddings.state_dict(),
        "tables_optimizer": embeddings.optimizer_state_dict(),
        "tables_steps": embeddings.optimizer_steps(),
        "dense": dense.state_dict(parallel.engine, frozen=frozen),
    }
    if not (frozen or embeddings.train_items):
        for kind in ("tables", "tables_optimizer", "tables_steps"):
            state[kind] = {name: value for name, value in state[kind].items() if name.split(".")[0] != "items"}
    return {kind: values for kind, values in state.items() if values}


def _why(error: BaseException, run: Path) -> str:
    """A line on why a checkpoint could not be written, of the failures of all ranks where DCP has gathered them."""
    causes = [each for each, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
    cause = next((each for each in causes if isinstance(each, OSError)), causes[0])
    if isinstance(cause, OSError):
        what = f"{cause.filename or run / 'checkpoints'}: {cause.strerror}"
    # torch.save's words for any failed write.
    elif "inline_container" in str(cause) or "PytorchStreamWriter" in str(cause):
        what = f"a write failed ({shutil.disk_usage(run).free / 1e6:,.0f} MB are free there)"
    else:
        what = " ".join(str(cause).split()) or type(cause).__name__
    return f"a checkpoint cannot be written: {what}"
