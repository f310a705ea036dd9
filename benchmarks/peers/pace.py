"""How a runner and ``benchmarks.peers`` talk: spans of training in turn, each timed by the process that trains.

A runner writes one JSON line when it is ready and then one per command line read: {"train": seconds} trains on until
that much time has passed at the end of a step, {"evaluate": true} ranks. Between commands it sleeps. Works in every
compared environment: needs numpy and torch only.
Shapes: B users, N items, D width, L longest history.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

HOLD_OUT = 2
"""Last clicks of each user kept out of training; the first of them is the validation target."""
CUT_OFF = 10


class Pacer:
    def __init__(self) -> None:
        # Libraries print: standard output goes to standard error, the replies to what it was.
        self.replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.evaluate: Callable[[], float] = lambda: 0.0
        self.parts: Callable[[], dict[str, float]] = dict
        """Seconds that each part of a step has taken so far, where the runner can say."""
        self.parts_before: dict[str, float] = {}
        self.began = self.span = 0.0
        self.targets = self.steps = 0

    def ready(self, evaluate: Callable[[], float]) -> None:
        """Say that training could start; return when it is to start. ``evaluate`` returns NDCG@10."""
        self.evaluate = evaluate
        self._reply(ready=True)
        self._wait()

    def tick(self, targets: int) -> None:
        """Note one finished step and its real targets; sleep here where the span is over."""
        self.targets += targets
        self.steps += 1
        seconds = time.perf_counter() - self.began
        if seconds >= self.span:
            parts = {name: now - self.parts_before.get(name, 0.0) for name, now in self.parts().items()}
            self._reply(seconds=seconds, targets=self.targets, steps=self.steps, parts=parts)
            self._wait()

    def _wait(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            if "train" in command:
                self.span, self.targets, self.steps = command["train"], 0, 0
                self.parts_before = dict(self.parts())
                self.began = time.perf_counter()
                return
            start = time.perf_counter()
            self._reply(ndcg=self.evaluate(), evaluation_s=time.perf_counter() - start)
        os._exit(0)  # no more commands; the loop we stand in would train for ever

    def _reply(self, **values: Any) -> None:
        print(json.dumps(values), file=self.replies, flush=True)


class Log:
    """The log all of them train on, in numbers from 0."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.clicks: np.ndarray = file["items"]
            """Item of each click, user after user, oldest first."""
            self.offsets: np.ndarray = file["offsets"]
            self.items = int(file["catalogue"])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, user: int) -> np.ndarray:
        clicks: np.ndarray = self.clicks[self.offsets[user] : self.offsets[user + 1]]
        return clicks


@torch.no_grad()
def validation_ndcg(
    log: Log,
    numbers: np.ndarray,
    items: torch.Tensor,
    encode: Callable[[list[np.ndarray]], torch.Tensor],
) -> float:
    """NDCG@10 of each user's last but one click among the whole catalogue, seen items removed, ties against the model.

    Args:
        numbers: the model's number of each item of the log, 0 = unknown to it (its padding) [N];
        items: vectors by the model's number; encode: histories in the model's numbers to user vectors [B, D].
    """
    gain = 0.0
    for first in range(0, len(log), 512):
        users = [log.of(u) for u in range(first, min(first + 512, len(log)))]
        histories = [numbers[clicks[:-HOLD_OUT]] for clicks in users]
        targets = torch.from_numpy(numbers[[clicks[-HOLD_OUT] for clicks in users]])
        scores = encode(histories) @ items.T
        own = scores.gather(1, targets[:, None])
        scores.scatter_(1, targets[:, None], -torch.inf)
        scores[:, 0] = -torch.inf
        for row, history in enumerate(histories):
            scores[row, torch.from_numpy(history)] = -torch.inf
        rank = 1 + (scores >= own).sum(1)
        hit = (rank <= CUT_OFF) & (targets > 0)
        gain += float((hit / torch.log2(1.0 + rank)).sum())
    return gain / len(log)
