"""What the readers of Amazon's reviews share: reviews or ratings of one category, and metadata beside them."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from ppr_dist.data.readers.base import Log, Raw, Reader, first_of_each

REVIEW = {"reviewerID": "VARCHAR", "asin": "VARCHAR", "overall": "DOUBLE", "unixReviewTime": "BIGINT"}


class Amazon(Reader):
    """A product that stands twice in the metadata is taken as it first stands there."""

    terms = "its authors ask to be cited; the terms on that page"
    patterns: ClassVar[tuple[str, ...]]
    """Names of the file of reviews or ratings."""

    @abstractmethod
    def clicks(self, raw: Raw, file: Path) -> str:
        """SQL of the clicks of a file of reviews or ratings."""

    @abstractmethod
    def products(self, raw: Raw, file: Path) -> str:
        """SQL of the products of a file of metadata, by item_id, in its order."""

    def read(self, raw: Raw) -> Log:
        file = raw.file(*self.patterns, without="meta_*")
        category = file.name.split(".")[0].removeprefix("reviews_").removeprefix("ratings_").removesuffix("_5")
        meta = raw.optional(f"meta_{category}.json", f"meta_{category}.jsonl")
        items = None if meta is None else first_of_each("item_id", self.products(raw, meta))
        return Log(interactions=self.clicks(raw, file), items=items)


def reviews_or_ratings(raw: Raw, file: Path, rating_columns: tuple[str, ...]) -> str:
    """SQL of the clicks of JSON lines of reviews, or of a CSV of ``rating_columns`` without a header."""
    if ".csv" in file.name:
        kinds = {"user_id": "VARCHAR", "item_id": "VARCHAR", "rating": "DOUBLE", "timestamp": "BIGINT"}
        table = raw.csv(file, {name: kinds[name] for name in rating_columns})
        return f"SELECT user_id, item_id, rating, timestamp FROM {table}"
    return (
        "SELECT reviewerID AS user_id, asin AS item_id, overall AS rating, unixReviewTime AS timestamp"
        f" FROM {raw.json(file, REVIEW)}"
    )
