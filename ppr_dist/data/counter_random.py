"""Random numbers as a pure function of (seed, counters): no state to save, the same on any rank or worker.

The mixer is SplitMix64's finaliser (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators",
OOPSLA 2014, fig. 17), applied once per key word.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]


def _mix(x: UInt64) -> UInt64:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def bits(seed: int, *counters: npt.ArrayLike) -> UInt64:
    """Return 64 random bits for every element of the broadcast ``counters`` (non-negative integers)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        state = _mix(np.atleast_1d(np.asarray(seed)).astype(np.uint64) + golden)
        for counter in counters:
            state = _mix(state ^ (np.asarray(counter).astype(np.uint64) * golden + golden))
    return state


def uniform(seed: int, *counters: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return floats in [0, 1)."""
    result: npt.NDArray[np.float64] = (bits(seed, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return result


def integers(high: int, seed: int, *counters: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return integers in [0, high); the modulo bias is below high / 2^64."""
    return (bits(seed, *counters) % np.uint64(high)).astype(np.int64)


def permutation(n: int, seed: int, *counters: int) -> npt.NDArray[np.int64]:
    """Return a permutation of 0 … n−1."""
    return np.argsort(bits(seed, *counters, np.arange(n)), kind="stable")
