"""Statistics of a click log and of its fractal expansion, side by side; the large ones in DuckDB, out of core.

Both are folders as the expansion writes them: item_id = j · I + v and user_id = i · U + u, clicks sorted by user,
whole users in each row group. Shapes: U users, I items of the log; q columns of the block power method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import torch
from torch.nn.functional import embedding_bag

from ppr_dist.data.synthetic.fractal_base import FractalConfig, probabilities, read_base, reduced

TOP, COLUMNS, PASSES = 10, 16, 4  # singular values shown; block power method
MOST_VALUES = 100  # an attribute with more values (a zip code) is too fine to compare item by item


def compare(log: Path, expansion: Path, config: FractalConfig, spill: Path) -> dict[str, Any]:
    """Return statistics of both, their singular values over the largest, and distances of attribute shares."""
    base = read_base(str(log / "interactions.parquet"), str(log / "users.parquet"))
    found: dict[str, Any] = {}
    with duckdb.connect() as con:
        con.execute(f"SET memory_limit = '2GB'; SET temp_directory = '{spill}'")
        for name, folder in (("log", log), ("expansion", expansion)):
            for table in ("interactions", "users"):
                con.execute(f"CREATE OR REPLACE VIEW {name}_{table} AS FROM '{folder / table}.parquet'")
            clicks = {key: _counts(con, f"{name}_interactions", key) for key in ("item_id", "user_id")}
            found[name] = _popularity(clicks["item_id"]) | _activity(clicks["user_id"])
        found["attributes"] = _attributes(con, base.items)
    values = {
        "log": _singular_values(log / "interactions.parquet", base.items),
        "expansion": _singular_values(expansion / "interactions.parquet", config.factor_items * base.items),
        "product": _products(probabilities(base, config), reduced(base, config)),
    }
    found["singular"] = {name: (v[1:TOP] / v[0]).tolist() for name, v in values.items()}
    return found


def _counts(con: duckdb.DuckDBPyConnection, table: str, key: str) -> np.ndarray:
    """Clicks of each id, the most clicked first."""
    query = f"SELECT count(*) AS clicks FROM {table} GROUP BY {key} ORDER BY clicks DESC"
    return con.sql(query).fetchnumpy()["clicks"]


def _popularity(counts: np.ndarray) -> dict[str, float]:
    def share(part: float) -> float:
        return float(counts[: max(1, round(part * len(counts)))].sum() / counts.sum())

    return {
        "clicks": int(counts.sum()),
        "items with a click": len(counts),
        "share of clicks on the top 0.1 % of items": share(0.001),
        "… 1 %": share(0.01),
        "… 10 %": share(0.1),
        "Gini of items": _gini(counts),
        "Zipf exponent of items (rank regression, 1 to 50 %)": _zipf(counts),
    }


def _activity(counts: np.ndarray) -> dict[str, float]:
    quantiles = {f"clicks of a user, {p} %": float(np.quantile(counts, p / 100)) for p in (1, 10, 50, 90, 99)}
    return {
        "users with a click": len(counts),
        "clicks of a user, mean": float(counts.mean()),
        **quantiles,
        "Gini of users": _gini(counts),
        "Zipf exponent of users": _zipf(counts),
    }


def _gini(descending: np.ndarray) -> float:
    n = len(descending)
    return float(((n + 1 - 2 * np.arange(1, n + 1)) * descending).sum() / (n * descending.sum()))


def _zipf(descending: np.ndarray) -> float:
    """Slope of log clicks over log rank, at ranks evenly spaced in log between 1 % and 50 % of all."""
    rank = np.unique(np.geomspace(0.01 * len(descending), 0.5 * len(descending), 40).astype(int) + 1)
    return float(np.polyfit(np.log(rank), np.log(descending[rank - 1]), 1)[0])


def _attributes(con: duckdb.DuckDBPyConnection, items: int) -> dict[str, dict[str, float]]:
    """Total variation distances of each attribute's shares, among users, clicks, and clicks on one base item."""
    found = {}
    for name in con.sql("FROM log_users").columns[1:]:
        values = con.sql(f'SELECT DISTINCT "{name}" FROM log_users ORDER BY ALL').fetchall()
        if len(values) > MOST_VALUES:
            continue
        number = {value: k for k, (value,) in enumerate(values)}

        def table(query: str, number: dict[Any, int] = number) -> np.ndarray:
            """Counts [I or 1, values] of a query's (row, value, count)."""
            rows = con.sql(query).fetchall()
            counts = np.zeros((1 + max(row for row, _, _ in rows), len(number)))
            for row, value, count in rows:
                counts[row, number[value]] = count
            return counts

        def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
            parts = [counts / counts.sum(axis=1, keepdims=True) for counts in (one, other)]
            return np.abs(parts[0] - parts[1]).sum(axis=1) / 2

        users, clicks = (
            [table(query.format(log)) for log in ("log", "expansion")]
            for query in (
                f'SELECT 0, "{name}", count(*) FROM {{0}}_users GROUP BY ALL',
                f'SELECT item_id % {items}, "{name}", count(*) FROM {{0}}_interactions JOIN {{0}}_users USING (user_id)'
                " GROUP BY ALL",
            )
        )
        everywhere = [counts.sum(axis=0, keepdims=True) for counts in clicks]
        weight = clicks[0].sum(axis=1)
        seen = clicks[1].sum(axis=1) > 0  # a rare item may have lost all its clicks
        found[name] = {
            "users": float(distance(*users)[0]),
            "clicks": float(distance(*everywhere)[0]),
            "clicks_on_an_item": float(
                np.average(distance(clicks[0][seen], clicks[1][seen]), weights=weight[seen]) if seen.any() else 1.0
            ),
        }
    return found


def _singular_values(path: Path, items: int) -> np.ndarray:
    """The largest singular values of R [U, I], clicks of a user on an item, by a block power method over the file."""
    q, _ = torch.linalg.qr(torch.randn(items, COLUMNS, generator=torch.Generator().manual_seed(0)))
    file = pq.ParquetFile(path)
    for _ in range(PASSES):
        image, gram = torch.zeros(items, COLUMNS), torch.zeros(COLUMNS, COLUMNS, dtype=torch.float64)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["user_id", "item_id"])
            item = torch.tensor(rows["item_id"].to_numpy())
            _, user, clicks = np.unique(rows["user_id"].to_numpy(), return_inverse=True, return_counts=True)
            starts = torch.from_numpy(np.cumsum(clicks) - clicks)
            part = embedding_bag(item, q, starts, mode="sum")  # this group's rows of R q, [users of the group, q]
            image.index_add_(0, item, part[torch.from_numpy(user)])
            gram += part.double().T @ part.double()
        q, _ = torch.linalg.qr(image)
    return np.sqrt(np.linalg.eigvalsh(gram.numpy())[::-1])


def _products(p: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The singular values of P ⊗ R, descending."""
    one, other = (np.linalg.svd(matrix, compute_uv=False) for matrix in (p, r))
    return np.sort(np.outer(one, other).ravel())[::-1]
