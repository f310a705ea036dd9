"""What every system is ranked by: the same lines over its vectors. Needs numpy and torch only.

Shapes: G users, N items, D width, B users at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.pace import HOLD_OUT, Log

Histories = list[np.ndarray]
"""Clicks of users in the log's numbers, oldest first."""


def in_turn(train: Callable[[Ranks], None]) -> None:
    """Do what the command line asks, a list of options, in this one process: starting one costs 20 seconds."""
    asked = json.loads(sys.argv.pop(1))  # RecBole reads the command line too
    torch.set_num_threads(1)
    for options in asked:
        print(f"--- {options['out']}", flush=True)
        train(Ranks(options))


class Ranks:
    """Ranks of each user's last click (test) and last but one (validation), after some of the epochs."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.log = Log(Path(options["log"]))
        trained = [self.log.of(user)[:-HOLD_OUT] for user in range(len(self.log))]
        self.known = np.bincount(np.concatenate(trained), minlength=self.log.items) > 0
        """Items that training sees: all others are ranked by nobody, [N]."""
        self.found: dict[str, list[np.ndarray]] = {"validation": [], "test": []}
        self.epochs: list[int] = []
        self.began = time.process_time()
        self.seconds = 0.0
        """Of the processor, ranking left out."""

    def asked(self, epoch: int) -> bool:
        """Whether ranks are wanted after so many epochs."""
        return epoch in self.options["epochs"]

    @torch.no_grad()
    def note(self, epoch: int, vectors: torch.Tensor, encode: Callable[[Histories], torch.Tensor]) -> None:
        """Rank. ``vectors``: of the items in the log's numbers [N, D]; ``encode``: histories to user vectors [B, D]."""
        self.seconds += time.process_time() - self.began
        self.epochs.append(epoch)
        for split, last in (("validation", 2), ("test", 1)):
            blocks = [range(first, min(first + 512, len(self.log))) for first in range(0, len(self.log), 512)]
            ranks = [self._ranks([self.log.of(user) for user in block], last, vectors, encode) for block in blocks]
            self.found[split].append(np.concatenate(ranks))
        self.began = time.process_time()

    def _ranks(
        self, clicks: Histories, last: int, vectors: torch.Tensor, encode: Callable[[Histories], torch.Tensor]
    ) -> np.ndarray:
        """Of each user's ``last`` click among the known items not seen before, ties against the model; [B]."""
        histories, targets = [each[:-last] for each in clicks], np.array([each[-last] for each in clicks])
        scores = (encode(histories) @ vectors.T).numpy()
        own = scores[np.arange(len(targets)), targets].copy()
        scores[:, ~self.known] = -np.inf
        for row, history in enumerate(histories):
            scores[row, history] = -np.inf
        scores[np.arange(len(targets)), targets] = -np.inf
        rank = 1.0 + (scores >= own[:, None]).sum(1)
        rank[~self.known[targets]] = np.inf
        return rank

    def save(self, parameters: int) -> None:
        """Write what was found; ``parameters``: of the model, tables included."""
        found: dict[str, Any] = {split: np.stack(each) for split, each in self.found.items()}
        out = Path(self.options["out"])
        np.savez(out, epochs=self.epochs, parameters=parameters, seconds=self.seconds, **found)
