"""Which step was trained on other users than it should have been, told from the sums of a span alone."""

from __future__ import annotations

import dataclasses
import itertools

from ppr_dist.arrays import Int64Array
from ppr_dist.checkpoint.certificate import MODULUS, hash_of, hashes_of, sum_of_step


@dataclasses.dataclass(frozen=True)
class Step:
    """A step as it should have been trained."""

    epoch: int
    step: int
    users: Int64Array
    """Of the global batch, by index."""


def name_fault(found: int, steps: list[Step], around: tuple[Step | None, Step | None]) -> str | None:
    """Say which single fault makes a span's sum ``found``; None where none of those tried does.

    Tried: from a step on every step trained the users of the next one (a batch was left out), or of the one before (a
    batch was repeated); a batch in place of the next one; two neighbours swapped; one user left out, or trained twice.
    A sum of 128 bits agrees by chance with probability 2^-128 each.

    Args:
        steps: of the span, in order.
        around: the steps before and after it, None where there is none.
    """
    before, after = ([hash_of(step.users)] if step else [0] for step in around)
    own = [hash_of(step.users) for step in steps]
    units = [sum_of_step(step.epoch, step.step, 1) for step in steps]
    earlier, later = [*before, *own[:-1]], [*own[1:], *after]
    wrong = (found - sum(map(_product, units, own))) % MODULUS

    def tails(other: list[int]) -> list[int]:
        """What changes where from a step on all have the users of ``other``, by that step."""
        changes = [_product(unit, instead - mine) for unit, instead, mine in zip(units, other, own, strict=True)]
        return [total % MODULUS for total in itertools.accumulate(reversed(changes))][::-1]

    left_out, repeated = tails(later), tails(earlier)
    for n, step in enumerate(steps):
        if wrong == left_out[n]:
            return f"the batch of step {step.step} was left out: from there on each step trained that of the next one"
        if wrong == _product(units[n], earlier[n] - own[n]):
            return f"step {step.step} trained the batch of step {step.step - 1} again"
        if wrong == repeated[n]:
            return f"from step {step.step} on each step trained the batch of the one before: one was repeated"
        if n + 1 < len(steps) and wrong == _product(units[n] - units[n + 1], own[n + 1] - own[n]):
            return f"steps {step.step} and {step.step + 1} were swapped"
        # An odd number can be divided by, modulo a power of two.
        one = _product(wrong, pow(units[n], -1, MODULUS))
        hashes = hashes_of(step.users)
        for difference, did in ((MODULUS - one, "left out"), (one, "trained once more")):
            if difference in hashes:
                return f"in step {step.step}, user {step.users[hashes.index(difference)]} was {did}"
    return None


def _product(one: int, other: int) -> int:
    return one * other % MODULUS
