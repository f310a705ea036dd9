"""Put the clicks of a log in order, once, and say what the order rests on.

``prepare`` and ``recommend`` both read their log through here, so that a history is the same to both. Sorts are
out of core, as in :mod:`~ppr_dist.data.prepare.splits`; a comparison with the row before is a streaming window over a
sorted table, which holds nothing.
"""

from __future__ import annotations

import dataclasses

import duckdb

from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.sources import scalars


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClickCounts:
    """What a log held, in clicks."""

    read: int
    """Rows of the log."""
    duplicate: int
    """Rows with the user, item, place (what orders) and time of an earlier row; left out by ``deduplicate``."""
    tied: int
    """Clicks that share their place with another click of the same user; duplicates only where they were kept."""
    repeated: int
    """Clicks on the item of the user's click before, counted like ``tied``; left out by ``deduplicate consecutive``."""
    untimed: int
    """Clicks without a time, counted like ``tied``."""
    backward: int
    """Clicks whose time is earlier than that of the user's click before, counted like ``tied``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clicks:
    """How a log was read."""

    order_column: str
    """Column that orders a user's clicks."""
    time_column: str
    """Column of their time; empty where there is none."""
    counts: ClickCounts


def order_clicks(con: duckdb.DuckDBPyConnection, config: PrepareConfig) -> ClickCounts:
    """Make ``log(user_id, item_id, time, nth)`` of ``raw_log(user_id, item_id, place, time)``, sorted by its columns.

    ``nth`` grows with the clicks of all users: user after user, oldest first. Ties in ``place`` are ordered by a
    seeded hash of (user, item): an order by item id could be learned, and it decides the first click and the last.
    """
    together = "user_id = lag(user_id) OVER () AND place = lag(place) OVER ()"
    same_time = "time IS NOT DISTINCT FROM lag(time) OVER ()"
    duplicate = f"coalesce({together} AND item_id = lag(item_id) OVER () AND {same_time}, false)"
    con.execute(f"CREATE VIEW flagged AS SELECT *, {duplicate} AS duplicate FROM raw_log")
    (read,) = scalars(con, "SELECT count(*) FROM raw_log")
    (duplicates,) = scalars(con, "SELECT count(*) FROM flagged WHERE duplicate")
    kept = "WHERE NOT duplicate" if config.deduplicate else ""
    con.execute(
        "CREATE VIEW compared AS SELECT *, coalesce(as_before, false) OR coalesce(lead(as_before) OVER (), false)"
        f" AS tied FROM (SELECT *, {together} AS as_before FROM (SELECT * FROM flagged {kept}))"
    )
    (tied,) = scalars(con, "SELECT count(*) FROM compared WHERE tied")
    # MD5 costs more than the sort, and only ties need it.
    tie = f"CASE WHEN tied THEN md5_number('{config.seed}:tie:' || user_id || ':' || item_id) END"
    order = f"ORDER BY user_id, place, {tie}, item_id, time" if tied else ""
    con.execute(
        "CREATE TABLE log AS SELECT user_id, item_id, time, row_number() OVER () AS nth"
        f" FROM (SELECT * FROM compared {order})"
    )
    con.execute("DROP VIEW compared; DROP VIEW flagged; DROP TABLE raw_log")
    mine = "user_id = lag(user_id) OVER ()"
    con.execute(
        f"CREATE VIEW followed AS SELECT *, coalesce({mine} AND item_id = lag(item_id) OVER (), false) AS again,"
        f" coalesce({mine} AND time < lag(time) OVER (), false) AS backward FROM log"
    )
    repeated, untimed, backward = scalars(
        con,
        "SELECT count(*) FILTER (again), count(*) FILTER (time IS NULL), count(*) FILTER (backward) FROM followed",
    )
    if config.deduplicate == "consecutive" and repeated:
        con.execute("CREATE TABLE changing AS SELECT user_id, item_id, time, nth FROM followed WHERE NOT again")
        con.execute("DROP VIEW followed; DROP TABLE log; ALTER TABLE changing RENAME TO log")
    else:
        con.execute("DROP VIEW followed")
    return ClickCounts(
        read=read, duplicate=duplicates, tied=tied, repeated=repeated, untimed=untimed, backward=backward
    )
