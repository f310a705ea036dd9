"""Vectors of users, such as another run's (``encode_users``), as ``prepare`` and ``recommend`` read them.

Shapes: U users of a range, F numbers of a vector.
"""

from __future__ import annotations

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ppr_dist.data.manifest import UserVectors
from ppr_dist.data.prepare.sources import scalars
from ppr_dist.data.prepare.vectors import in_half_precision, load_vectors
from ppr_dist.errors import UserError


class RawVectors:
    """A file's vectors, put in the order of ``people`` by :meth:`index`."""

    def __init__(self, con: duckdb.DuckDBPyConnection, path: str, column: str, user_type: str) -> None:
        """``column``: of the user id. Raises as :func:`load_vectors`."""
        self.con, self.path = con, path
        self.columns = load_vectors(con, path, "raw_vectors", column, user_type, "user")

    def index(self, key: str) -> UserVectors:
        """Fill ``user_vectors(number, vector)`` in the order of ``key`` of ``people``, its users alone.

        Raises :class:`UserError` where none of them has a vector.
        """
        self.con.execute(
            f"CREATE TABLE user_vectors AS SELECT p.{key} AS number, v.vector FROM people p JOIN raw_vectors v"
            " ON p.user_id = v.user_id ORDER BY number"
        )
        self.con.execute("DROP TABLE raw_vectors")
        (known,) = scalars(self.con, "SELECT count(*) FROM user_vectors")
        if not known:
            raise UserError(f"{self.path}: none of its users is in the data")
        return UserVectors(columns=self.columns, known=known)

    def of(self, numbers: npt.NDArray[np.int64]) -> pa.FixedSizeListArray:
        """Vectors of users ``numbers`` [U], ascending, in half precision; zeros where there is none.

        Raises :class:`UserError` on numbers that are not finite in half precision.
        """
        found = np.zeros((len(numbers), self.columns), np.float16)
        if len(numbers):
            between = f"number >= {numbers[0]} AND number <= {numbers[-1]}"
            sql = f"SELECT number, vector FROM user_vectors WHERE {between}"
            rows = self.con.sql(sql).to_arrow_table().combine_chunks()
            flat = rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, self.columns)
            place = np.searchsorted(numbers, rows["number"].to_numpy())
            found[place] = in_half_precision(flat, self.path)
        return pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), self.columns)
