"""Amazon reviews 2023 (Hou et al., arXiv 2403.03952), one category: CATEGORY.jsonl, or CATEGORY.csv of ratings.

Both hold user_id, parent_asin, rating and timestamp (milliseconds); the CSV has a header (the benchmark's
rating_only). A click is a review, whatever its stars, and the item is parent_asin, as in the authors' benchmark
(kcore_filtering.py of hyp1231/AmazonReviews2023), which keeps the first review of a user and item: ``prepare`` keeps
all. Beside them meta_CATEGORY.jsonl, where it is there: title, categories, store, image. No profiles.
"""

from __future__ import annotations

from ppr_dist.data.readers.amazon_2018 import metadata
from ppr_dist.data.readers.base import Log, Raw, Reader, first_of_each

REVIEW = {"user_id": "VARCHAR", "parent_asin": "VARCHAR", "rating": "DOUBLE", "timestamp": "BIGINT"}
META = {
    "parent_asin": "VARCHAR",
    "title": "VARCHAR",
    "main_category": "VARCHAR",
    "categories": "VARCHAR[]",
    "store": "VARCHAR",
    "images": "STRUCT(large VARCHAR)[]",
}


class Amazon2023(Reader):
    title = "Amazon reviews 2023"
    page = "https://amazon-reviews-2023.github.io"
    terms = "its authors ask to be cited; the terms on that page"

    def read(self, raw: Raw) -> Log:
        file = raw.file("*.jsonl", "*.csv", without="meta_*")
        log = raw.csv(file, REVIEW, header=True) if ".csv" in file.name else raw.json(file, REVIEW)
        meta = metadata(raw, file)
        items = None
        if meta is not None:
            items = first_of_each(
                "item_id",
                "SELECT parent_asin AS item_id, title, main_category, categories AS category, store,"
                f" images[1].large AS image FROM {raw.json(meta, META)}",
            )
        return Log(
            interactions=f"SELECT user_id, parent_asin AS item_id, rating, epoch_ms(timestamp) AS timestamp FROM {log}",
            items=items,
        )
