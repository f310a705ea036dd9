"""Amazon reviews 2014 (McAuley et al., SIGIR 2015), one category: reviews as JSON lines, or ratings as CSV.

Reviews: reviews_CATEGORY.json.gz, or reviews_CATEGORY_5.json.gz where users and items have five (reviewerID, asin,
overall, unixReviewTime); ratings: ratings_CATEGORY.csv (user, item, rating, seconds; no header). A click is a review,
whatever its stars: as Kang & McAuley (SASRec, ICDM 2018, IV-A). Times are days, so many are tied. Beside them
meta_CATEGORY.json.gz, where it is there: title, brand, categories, image. Its lines are Python's dicts and not JSON.
No profiles.
"""

from __future__ import annotations

import ast
import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ppr_dist.data.readers.amazon import Amazon, reviews_or_ratings
from ppr_dist.data.readers.base import Raw
from ppr_dist.errors import UserError

ITEM = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("brand", pa.string()),
        ("category", pa.list_(pa.string())),
        ("image", pa.string()),
    ]
)
LINES = 10_000
"""Lines of metadata in memory at a time."""


def products(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the products of a file of Python's dicts. Raises :class:`UserError` naming the line that is none."""
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                product = ast.literal_eval(line)
                path = (product.get("categories") or [[]])[0]
                known = {name: product.get(name) for name in ("title", "brand")}
                yield {"item_id": product["asin"], **known, "category": path, "image": product.get("imUrl")}
            except (SyntaxError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"{file}: line {number} is no product ({type(error).__name__})") from error


class Amazon2014(Amazon):
    title = "Amazon reviews 2014"
    page = "http://jmcauley.ucsd.edu/data/amazon/index_2014.html"
    patterns = ("reviews_*.json", "ratings_*.csv")

    def clicks(self, raw: Raw, file: Path) -> str:
        return reviews_or_ratings(raw, file, ("user_id", "item_id", "rating", "timestamp"))

    def products(self, raw: Raw, file: Path) -> str:
        known = products(file)
        parts = iter(lambda: list(itertools.islice(known, LINES)), [])
        batches = (pa.RecordBatch.from_pylist(part, ITEM) for part in parts)
        raw.con.register("products_2014", pa.RecordBatchReader.from_batches(ITEM, batches))
        return "SELECT * FROM products_2014"
