"""Put the clicks of a log in order, once, and say what the order rests on.

``prepare`` and ``recommend`` both read their log through here, so that a history is the same to both. Sorts are
out of core, as in :mod:`ppr_dist.data.splits`; a comparison with the row before is a streaming window over a sorted
table, which holds nothing.
"""

from __future__ import annotations

import dataclasses

import duckdb

from ppr_dist.data.sources import scalars


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClickCounts:
    """What a log held, in clicks."""

    read: int
    """Rows of the log."""
    tied: int
    """Clicks that share their place (time or position) with another click of the same user."""


def order_clicks(con: duckdb.DuckDBPyConnection, seed: int) -> ClickCounts:
    """Turn ``raw_log(user_id, item_id, place)``, sorted by its columns, into ``log(user_id, item_id, nth)``.

    ``nth`` numbers the clicks of all users: user after user, oldest first. Ties in ``place`` are ordered by a seeded
    hash of (user, item): an order by item id could be learned, and it decides the first click and the last.
    """
    same = "user_id = lag(user_id) OVER () AND place = lag(place) OVER ()"
    con.execute(
        "CREATE VIEW compared AS SELECT *, coalesce(as_before, false) OR coalesce(lead(as_before) OVER (), false)"
        f" AS tied FROM (SELECT *, {same} AS as_before FROM raw_log)"
    )
    read, tied = scalars(con, "SELECT count(*), count(*) FILTER (tied) FROM compared")
    # MD5 costs more than the sort, and only ties need it.
    tie = f"CASE WHEN tied THEN md5_number('{seed}:tie:' || user_id || ':' || item_id) END"
    order = f"ORDER BY user_id, place, {tie}, item_id" if tied else ""
    con.execute(
        "CREATE TABLE log AS SELECT user_id, item_id, row_number() OVER () AS nth"
        f" FROM (SELECT * FROM compared {order})"
    )
    con.execute("DROP VIEW compared; DROP TABLE raw_log")
    return ClickCounts(read=read, tied=tied)
