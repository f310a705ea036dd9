"""Protocols of rankings: ``full``, the whole catalogue, or ``sampled-N``, N items beside the target."""

from __future__ import annotations

import re

from ppr_dist.errors import UserError

_SAMPLED = re.compile("sampled-([1-9][0-9]*)")


def negatives(protocol: str) -> int | None:
    """N of ``sampled-N``; None of any other."""
    found = _SAMPLED.fullmatch(protocol)
    return int(found[1]) if found else None


def is_ranking(protocol: str) -> bool:
    """Whether ``protocol`` is one of these; what ranks nothing has its own."""
    return protocol == "full" or negatives(protocol) is not None


def check_protocol(protocol: str) -> None:
    """Raise :class:`UserError` where an option names no such protocol."""
    if not is_ranking(protocol):
        raise UserError(f"--protocol {protocol!r}: full, or sampled-N with N at least 1, such as sampled-99")


def words(protocol: str) -> str:
    """What the target is ranked among."""
    count = negatives(protocol)
    return "in the whole catalogue" if count is None else f"among {count} sampled items"
