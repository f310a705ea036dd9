"""From the raw log to indexed, ordered and split tables, out of core in DuckDB.

All sorts are written as ``CREATE TABLE … AS SELECT … ORDER BY``: DuckDB sorts on disk and stores the rows in
that order, so ``rowid`` (0, 1, …) is the index. No list() aggregation: it holds all lists in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import duckdb

from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.sources import scalars
from ppr_dist.data.prepare.times import SECONDS
from ppr_dist.errors import UserError

SPLITS = ("pretrain", "tune-train", "tune-test", "tune-validation")
Stage = Callable[[str], None]


def seeded_hash(config: PrepareConfig, purpose: str, column: str) -> str:
    """SQL of a seeded hash: the MD5 of ``seed:purpose:id`` as a number (first byte the lowest)."""
    return f"md5_number('{config.seed}:{purpose}:' || CAST({column} AS VARCHAR))"


def _round(x: float) -> int:
    return int(x + 0.5)


def drop_rare_items(con: duckdb.DuckDBPyConnection, config: PrepareConfig, path: str) -> int:
    """Remove from ``log`` the items seen fewer than ``min_item_count`` times; return the users left without a click."""
    if config.min_item_count == 1:
        return 0
    con.execute(
        "CREATE TABLE frequent AS SELECT log.* FROM log SEMI JOIN"
        f" (SELECT item_id FROM log GROUP BY item_id HAVING count(*) >= {config.min_item_count}) kept"
        " ON log.item_id = kept.item_id"
    )
    users = [
        scalars(con, f"SELECT count(*) FROM (SELECT user_id FROM {table} GROUP BY user_id)")[0]
        for table in ("log", "frequent")
    ]
    con.execute("DROP TABLE log; ALTER TABLE frequent RENAME TO log")
    if users[1] == 0:
        raise UserError(f"{path}: no item is seen {config.min_item_count} times (min_item_count)")
    return users[0] - users[1]


def split_users(con: duckdb.DuckDBPyConnection, config: PrepareConfig) -> None:
    """Fill ``users(user_id, split, events)`` and cut the simulated cold users' sequences in ``log``.

    ``split`` is a position in :data:`SPLITS`. All choices (which warm users become cold, which cold users are for
    testing, which of the others for validation, which of the rest to tune on) go by seeded hashes and take as many
    users as the share says, rounded: the smallest hashes, or for another fold of test users those that follow.
    """
    kept = config.cold_threshold - 1
    con.execute("CREATE TABLE counted AS SELECT user_id, count(*) AS events FROM log GROUP BY user_id")
    (warm,) = scalars(con, f"SELECT count(*) FROM counted WHERE events > {kept}")
    simulated = _round(config.simulate_cold * warm)
    con.execute(
        f"CREATE TABLE simulated AS SELECT user_id FROM counted WHERE events > {kept}"
        f" ORDER BY {seeded_hash(config, 'simulate', 'user_id')}, user_id LIMIT {simulated}"
    )
    if simulated:
        con.execute(
            "CREATE TABLE cut AS SELECT log.* FROM log ANTI JOIN simulated s ON log.user_id = s.user_id"
            " UNION ALL SELECT * EXCLUDE clicked_before FROM (SELECT log.*, row_number() OVER"
            " (PARTITION BY log.user_id ORDER BY nth) - 1 AS clicked_before"
            f" FROM log SEMI JOIN simulated s ON log.user_id = s.user_id) WHERE clicked_before < {kept}"
        )
        con.execute("DROP TABLE log; ALTER TABLE cut RENAME TO log")
    con.execute(
        f"CREATE TABLE shortened AS SELECT c.user_id, if(s.user_id IS NULL, c.events, {kept}) AS events"
        " FROM counted c LEFT JOIN simulated s ON c.user_id = s.user_id"
    )
    (cold,) = scalars(con, f"SELECT count(*) FROM shortened WHERE events <= {kept}")
    before, to = (
        _round(config.tune_test_fraction * n * cold) for n in (config.tune_test_fold - 1, config.tune_test_fold)
    )
    testing = to - before
    con.execute(
        f"CREATE TABLE testing AS SELECT user_id FROM shortened WHERE events <= {kept}"
        f" ORDER BY {seeded_hash(config, 'tune', 'user_id')}, user_id LIMIT {testing} OFFSET {before}"
    )
    validating = _round(config.tune_validation_fraction * (cold - testing))
    con.execute(
        f"CREATE TABLE validating AS SELECT s.user_id FROM shortened s ANTI JOIN testing t ON s.user_id = t.user_id"
        f" WHERE s.events <= {kept} ORDER BY {seeded_hash(config, 'validate', 's.user_id')}, s.user_id"
        f" LIMIT {validating}"
    )
    clicks = f"least(s.events, {config.cold_clicks})" if config.cold_clicks else "s.events"
    con.execute(
        f"CREATE TABLE users AS SELECT s.user_id, if(s.events > {kept}, s.events, {clicks}) AS events, CASE"
        f" WHEN s.events > {kept} THEN 0 WHEN t.user_id IS NOT NULL THEN 2 WHEN v.user_id IS NOT NULL THEN 3 ELSE 1"
        " END AS split FROM shortened s LEFT JOIN testing t ON s.user_id = t.user_id"
        " LEFT JOIN validating v ON s.user_id = v.user_id"
    )
    if config.tune_train_users is not None:
        con.execute(
            "DELETE FROM users WHERE split = 1 AND user_id NOT IN (SELECT user_id FROM users WHERE split = 1"
            f" ORDER BY {seeded_hash(config, 'fewer', 'user_id')}, user_id LIMIT {config.tune_train_users})"
        )
    for table in ("counted", "simulated", "shortened", "testing", "validating"):
        con.execute(f"DROP TABLE {table}")


def index_users(con: duckdb.DuckDBPyConnection, config: PrepareConfig, attributes: int) -> None:
    """Fill ``people(user_index, user_id, split, events, start, a0, …)`` in index order.

    Users are ordered by (split, seeded hash, id): within a split every shard is a random sample of its users.
    ``start`` is the row of ``sequence`` at which the user's events begin.
    """
    profile = "".join(f", coalesce(p.a{k}, 0) AS a{k}" for k in range(attributes))
    con.execute(
        "CREATE TABLE ordered_users AS SELECT user_id, split, events FROM users"
        f" ORDER BY split, {seeded_hash(config, 'user', 'user_id')}, user_id"
    )
    con.execute("DROP TABLE users")
    con.execute(
        "CREATE TABLE indexed_users AS SELECT rowid AS user_index, *, CAST(sum(events) OVER"
        " (ORDER BY rowid ROWS UNBOUNDED PRECEDING) AS BIGINT) - events AS start FROM ordered_users"
    )
    con.execute(
        f"CREATE TABLE people AS SELECT u.user_index, u.user_id, u.split, u.events, u.start{profile}"
        " FROM indexed_users u LEFT JOIN profile p ON u.user_id = p.user_id ORDER BY u.user_index"
    )
    con.execute("DROP TABLE ordered_users; DROP TABLE indexed_users; DROP TABLE profile")


def hide_items(con: duckdb.DuckDBPyConnection, config: PrepareConfig) -> None:
    """Remove from ``log`` what training would see of some items, ``hidden(item_id)``, and users who have no click left.

    What stays of them is what evaluation asks for: the last click of a user of pretrain, and all clicks of users of
    tune-test and tune-validation.
    """
    (items,) = scalars(con, "SELECT count(DISTINCT item_id) FROM log")
    con.execute(
        "CREATE TABLE hidden AS SELECT item_id FROM (SELECT DISTINCT item_id FROM log)"
        f" ORDER BY {seeded_hash(config, 'hide', 'item_id')}, item_id LIMIT {_round(config.hide_items * items)}"
    )
    con.execute(
        "CREATE TABLE shown AS SELECT log.* FROM log JOIN users u ON log.user_id = u.user_id"
        " JOIN (SELECT user_id, max(nth) AS last FROM log GROUP BY user_id) l ON log.user_id = l.user_id"
        " LEFT JOIN hidden h ON log.item_id = h.item_id"
        " WHERE h.item_id IS NULL OR u.split >= 2 OR (u.split = 0 AND log.nth = l.last)"
    )
    con.execute("DROP TABLE log; ALTER TABLE shown RENAME TO log")
    left = f"if(u.split > 0, least(c.events, {config.cold_clicks}), c.events)" if config.cold_clicks else "c.events"
    con.execute(
        f"CREATE TABLE left_over AS SELECT u.user_id, {left} AS events, u.split FROM users u"
        " JOIN (SELECT user_id, count(*) AS events FROM log GROUP BY user_id) c ON u.user_id = c.user_id"
    )
    con.execute("DROP TABLE users; ALTER TABLE left_over RENAME TO users")


def index_items(con: duckdb.DuckDBPyConnection, config: PrepareConfig, known: Sequence[str] = ()) -> None:
    """Fill ``vocabulary(item_id)``, in index order (rowid), from what is left in ``log``.

    ``known``: SQL of other items (item_id) that are in the catalogue too, clicked or not.

    The order is by seeded hash: a row-wise sharded table gives each rank a range of indices, and raw ids
    often go with age and so with popularity; by raw id one rank would own most of the hot rows.
    """
    every = " UNION ALL ".join(["SELECT item_id FROM log", *known])
    con.execute(
        f"CREATE TABLE vocabulary AS SELECT item_id FROM (SELECT DISTINCT item_id FROM ({every}))"
        f" ORDER BY {seeded_hash(config, 'item', 'item_id')}, item_id"
    )


def crop_cold(con: duckdb.DuckDBPyConnection, config: PrepareConfig) -> None:
    """Cut the cold users' sequences in ``log`` to ``cold_clicks``: only once all of its items have an index."""
    if config.cold_clicks is None:
        return
    con.execute(
        "CREATE TABLE cropped AS SELECT log.* FROM log JOIN people p ON log.user_id = p.user_id WHERE p.split = 0"
        " UNION ALL SELECT * EXCLUDE (clicked_before) FROM (SELECT log.*, row_number() OVER"
        " (PARTITION BY log.user_id ORDER BY nth) - 1 AS clicked_before"
        " FROM log JOIN people p ON log.user_id = p.user_id WHERE p.split > 0)"
        f" WHERE clicked_before < {config.cold_clicks}"
    )
    con.execute("DROP TABLE log; ALTER TABLE cropped RENAME TO log")


def order_events(con: duckdb.DuckDBPyConnection, times: bool) -> None:
    """Fill ``sequence(user_index, item_index)``: user after user, each in the order of ``log``.

    With ``times`` there is a third column ``time``, in Unix seconds. Users in no split are left out.
    """
    con.execute(
        f"CREATE TABLE sequence AS SELECT p.user_index, v.rowid AS item_index{f', {SECONDS} AS time' if times else ''}"
        " FROM log"
        " JOIN people p ON log.user_id = p.user_id JOIN vocabulary v ON log.item_id = v.item_id"
        " ORDER BY p.user_index, log.nth"
    )
    con.execute("DROP TABLE log")


def count_items(con: duckdb.DuckDBPyConnection) -> None:
    """Fill ``items(item_index, item_id, train_count, tune_count)`` in index order.

    ``train_count``: occurrences in pretrain sequences without each user's last two items, which are the
    targets of next-item validation and test. ``tune_count``: occurrences in tune-train sequences.
    """
    con.execute(
        "CREATE TABLE occurrences AS SELECT s.item_index,"
        " count(*) FILTER (p.split = 0 AND s.rowid < p.start + p.events - 2) AS train_count,"
        " count(*) FILTER (p.split = 1) AS tune_count"
        " FROM sequence s JOIN people p ON s.user_index = p.user_index GROUP BY s.item_index"
    )
    con.execute(
        "CREATE TABLE items AS SELECT v.rowid AS item_index, v.item_id,"
        " coalesce(o.train_count, 0) AS train_count, coalesce(o.tune_count, 0) AS tune_count"
        " FROM vocabulary v LEFT JOIN occurrences o ON v.rowid = o.item_index ORDER BY v.rowid"
    )
    con.execute("DROP TABLE occurrences; DROP TABLE vocabulary")


def build(
    con: duckdb.DuckDBPyConnection,
    config: PrepareConfig,
    attributes: int,
    times: bool,
    known: Sequence[str],
    stage: Stage,
) -> None:
    """Run the steps after :func:`split_users`; leaves ``people``, ``items`` and ``sequence``."""
    stage("indexing users")
    index_users(con, config, attributes)
    stage("indexing items")
    index_items(con, config, known)
    stage("ordering events")
    crop_cold(con, config)
    order_events(con, times)
    stage("counting items")
    count_items(con)
