"""What a run has trained on, as one number that anybody can compute again from the data.

Every user has a 128-bit hash. A step adds c(epoch, step) · Σ hash(user) over its users, modulo 2^128, c being odd and
random: sums of the ranks add up to that of one rank, while a batch left out, repeated, or trained in another's place
changes the sum. It is taken of the batch that went through the update, not of what was to be read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import yaml

from ppr_dist.arrays import Int64Array
from ppr_dist.data.counter_random import bits

MODULUS = 2**128
_HIGH, _LOW, _STEP = 21, 22, 23  # what a hash is for, as its seed
_OTHERWISE_ALIKE = {
    "train": {
        *("epochs", "max_steps", "max_minutes", "patience", "eval_every_epochs", "validation_task", "best_metric"),
        *("checkpoint_every", "keep_checkpoints", "keep_every", "async_checkpoint", "on_failed_checkpoint"),
        *("log_every", "hang_minutes", "dry_step"),
    },
    "stream": {"workers"},
}
_LIMBS = tuple(range(0, 128, 32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """Steps [start, stop) of a run, as they were trained in one go."""

    start: int
    stop: int
    users: str
    """:func:`sum_of_step` over steps and users, in hexadecimal digits."""
    world_size: int
    options: str = ""
    """:func:`hash_of_options` of the run as it was then; empty: written by a version that did not note it."""


def hash_of(users: Int64Array) -> int:
    """Σ of the hashes of user indices int64 [B], modulo 2^128."""
    total = 0
    for seed in (_HIGH, _LOW):
        words = bits(seed, users)
        # Halves, whose sum over fewer than 2^32 users stays below 2^64.
        halves = int((words >> np.uint64(32)).sum()) << 32, int((words & np.uint64(2**32 - 1)).sum())
        total = (total << 64) + sum(halves)
    return total % MODULUS


def hashes_of(users: Int64Array) -> list[int]:
    """The hash of each of user indices int64 [B]."""
    high, low = (bits(seed, users).tolist() for seed in (_HIGH, _LOW))
    return [one << 64 | other for one, other in zip(high, low, strict=True)]


def sum_of_step(epoch: int, step: int, users: int) -> int:
    """What a step adds, of the hashes of its users or of some of them (:func:`hash_of`)."""
    high, low = (int(bits(_STEP, epoch, step, half)[0]) for half in (0, 1))
    return ((high << 64 | low) | 1) * users % MODULUS


class Certificate:
    """Of a run on this rank, as far as it has been trained."""

    def __init__(self, spans: tuple[Span, ...], step: int, options: str = "") -> None:
        """Of a run that has come to ``step`` by ``spans``, and goes on with these options."""
        self.spans, self.start, self.sum, self.options = spans, step, 0, options

    def add(self, epoch: int, step: int, users: int) -> None:
        """Note a step that was trained; ``users``: :func:`hash_of` this rank's users of it."""
        self.sum = (self.sum + sum_of_step(epoch, step, users)) % MODULUS

    def up_to(self, step: int) -> tuple[Span, ...]:
        """All spans, the last of which ends before ``step``. A collective."""
        if step > self.start:
            users = f"{over_ranks(self.sum):032x}"
            ranks = dist.get_world_size()
            span = Span(start=self.start, stop=step, users=users, world_size=ranks, options=self.options)
            self.spans, self.start, self.sum = (*self.spans, span), step, 0
        return self.spans


def hash_of_options(config: Path) -> str:
    """Of those of a run's ``config.yaml`` that training depends on, in hexadecimal digits; empty without the file.

    Left out: how long it trains, what it saves, measures and shows, and what only decides how fast it is.
    """
    if not config.is_file():
        return ""
    body = yaml.safe_load(config.read_text())
    body = {name: section for name, section in body.items() if name != "logging"}
    for section, names in _OTHERWISE_ALIKE.items():
        body[section] = {name: value for name, value in body.get(section, {}).items() if name not in names}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def over_ranks(mine: int) -> int:
    """Sum of every rank's number, modulo 2^128. A collective, on the host."""
    limbs = torch.tensor([mine >> shift & (2**32 - 1) for shift in _LIMBS])
    if dist.get_world_size() > 1:
        dist.all_reduce(limbs)
    return sum(limb << shift for limb, shift in zip(limbs.tolist(), _LIMBS, strict=True)) % MODULUS


def of_steps(steps: Iterable[tuple[int, int, Int64Array]]) -> int:
    """The sum of whole global batches: (epoch, step, user indices) of each."""
    return sum(sum_of_step(epoch, step, hash_of(users)) for epoch, step, users in steps) % MODULUS
