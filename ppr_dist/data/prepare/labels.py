"""Labels of users: read from a file for each label space, numbered, and put in the order of users.

A user's labels stand in the order of a seeded hash, since one by id could be learned. Every label of the file has an
index, by value in ascending order, whoever has it: another split of the users leaves the space as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import duckdb

from ppr_dist.data.manifest import LABELS, LabelSpace
from ppr_dist.data.prepare import logs
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.content import ids_sha256
from ppr_dist.data.prepare.sources import Source, identifier, is_name, literal, named_errors, scalars
from ppr_dist.data.prepare.splits import seeded_hash
from ppr_dist.errors import UserError, warn

COLUMN = "label"


def labels_of_users(name: str) -> str:
    """The table ``(user_index, label_index)`` of a space, user after user, which :func:`number` fills."""
    return identifier(f"labels_of_users_{name}")


def load(
    con: duckdb.DuckDBPyConnection,
    spaces: Mapping[str, Source],
    user_column: str,
    user_type: str,
    attributes: Iterable[str],
) -> dict[str, str]:
    """Read and check each file; return the type of its labels (``int64``, ``string``) by name.

    Raises :class:`UserError` on a name that cannot be one, a column that is missing or of floats, a row without a
    user, and a file without a label.
    """
    types = {}
    for name, source in spaces.items():
        if not is_name(name) or f"{LABELS}.{name}" in attributes:
            raise UserError(f"--labels.{name}: a name of letters, digits, - and _, and no attribute's")
        source.require(COLUMN)
        with named_errors(source.path):
            if scalars(con, f"SELECT count({identifier(COLUMN)}) FROM {source.table}") == (0,):
                raise UserError(f"{source.path}: no label in it")
        types[name] = logs.id_types(con, source, COLUMN)[0]
        user = f"CAST({identifier(user_column)} AS {logs.SQL_TYPES[user_type]})"
        label = f"CAST({identifier(COLUMN)} AS {logs.SQL_TYPES[types[name]]})"
        with named_errors(source.path):
            con.execute(f"CREATE TABLE {_raw(name)} AS SELECT {user} AS user_id, {label} AS label FROM {source.table}")
        rows, users = scalars(con, f"SELECT count(*), count(user_id) FROM {_raw(name)}")
        if users < rows:
            raise UserError(f"{source.path}: column {user_column!r} is null in {rows - users:,} of {rows:,} rows")
    return types


def number(con: duckdb.DuckDBPyConnection, name: str, path: str, kind: str, config: PrepareConfig) -> LabelSpace:
    """Fill the table :func:`labels_of_users` and add to ``label_values(space, label_index, label)``.

    A label that a user has twice counts once. Users who are not among ``people`` are counted on stderr.

    Raises :class:`UserError` where none is.
    """
    raw, theirs, values = _raw(name), labels_of_users(name), identifier(f"labels_of_{name}")
    con.execute(f"CREATE TABLE {values} AS SELECT DISTINCT label FROM {raw} WHERE label IS NOT NULL ORDER BY label")
    of_pair = seeded_hash(config, "label", "CAST(user_id AS VARCHAR) || ':' || CAST(label AS VARCHAR)")
    con.execute(
        f"CREATE TABLE {theirs} AS SELECT user_index, label_index FROM (SELECT DISTINCT p.user_index, p.user_id,"
        f" v.rowid AS label_index, v.label FROM {raw} r JOIN people p ON r.user_id = p.user_id"
        f" JOIN {values} v ON r.label = v.label) ORDER BY user_index, {of_pair}, label_index"
    )
    (listed,) = scalars(con, f"SELECT count(DISTINCT user_id) FROM {raw} WHERE label IS NOT NULL")
    users, most = scalars(con, f"SELECT count(*), max(n) FROM (SELECT count(*) AS n FROM {theirs} GROUP BY user_index)")
    if not users:
        raise UserError(f"{path}: none of its {listed:,} users is among those of the data")
    if users < listed:
        warn(
            f"{path}: {listed - users:,} of {listed:,} users are not among those of the data; their labels are left out"
        )
    found = con.sql(f"SELECT label FROM {values} ORDER BY rowid").to_arrow_table().column(0)
    con.execute(
        f"INSERT INTO label_values SELECT {literal(name)}, rowid, CAST(label AS VARCHAR) FROM {values} ORDER BY rowid"
    )
    con.execute(f"DROP TABLE {raw}; DROP TABLE {values}")
    return LabelSpace(name=name, id_type=kind, size=len(found), values=ids_sha256(found.chunks), users=users, most=most)


def _raw(name: str) -> str:
    return identifier(f"raw_labels_{name}")
