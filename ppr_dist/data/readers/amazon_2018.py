"""Amazon reviews 2018 (Ni, Li & McAuley, EMNLP 2019), one category: reviews as JSON lines, or ratings as CSV.

Reviews: CATEGORY.json.gz, or CATEGORY_5.json.gz where users and items have five (reviewerID, asin, overall,
unixReviewTime); ratings: CATEGORY.csv (item, user, rating, seconds; no header). A click is a review, whatever its
stars: as Kang & McAuley (SASRec, ICDM 2018, IV-A) and most after them read these. Times are days, so many are tied.
Beside them meta_CATEGORY.json.gz, where it is there: title, brand, category, image. No profiles. A product that
stands twice in the metadata is taken as it first stands there.
"""

from __future__ import annotations

from pathlib import Path

from ppr_dist.data.readers.base import Log, Raw, Reader, first_of_each

REVIEW = {"reviewerID": "VARCHAR", "asin": "VARCHAR", "overall": "DOUBLE", "unixReviewTime": "BIGINT"}
META = {
    "asin": "VARCHAR",
    "title": "VARCHAR",
    "brand": "VARCHAR",
    "category": "VARCHAR[]",
    "imageURLHighRes": "VARCHAR[]",
}


def metadata(raw: Raw, file: Path) -> Path | None:
    """The metadata of the category whose reviews or ratings are ``file``, or None."""
    category = file.name.split(".")[0].removeprefix("reviews_").removeprefix("ratings_").removesuffix("_5")
    return raw.optional(f"meta_{category}.json", f"meta_{category}.jsonl")


def clicks(raw: Raw, file: Path, rating_columns: tuple[str, ...]) -> str:
    """SQL of the clicks of JSON lines of reviews, or of a CSV of ``rating_columns`` without a header."""
    if ".csv" in file.name:
        kinds = {"user_id": "VARCHAR", "item_id": "VARCHAR", "rating": "DOUBLE", "timestamp": "BIGINT"}
        table = raw.csv(file, {name: kinds[name] for name in rating_columns})
        return f"SELECT user_id, item_id, rating, timestamp FROM {table}"
    return (
        "SELECT reviewerID AS user_id, asin AS item_id, overall AS rating, unixReviewTime AS timestamp"
        f" FROM {raw.json(file, REVIEW)}"
    )


class Amazon2018(Reader):
    title = "Amazon reviews 2018"
    page = "https://nijianmo.github.io/amazon/index.html"
    terms = "its authors ask to be cited; the terms on that page"

    def read(self, raw: Raw) -> Log:
        file = raw.file("*.json", "*.csv", without="meta_*")
        meta = metadata(raw, file)
        items = None
        if meta is not None:
            items = first_of_each(
                "item_id",
                "SELECT asin AS item_id, title, brand, category, imageURLHighRes[1] AS image"
                f" FROM {raw.json(meta, META)}",
            )
        return Log(interactions=clicks(raw, file, ("item_id", "user_id", "rating", "timestamp")), items=items)
