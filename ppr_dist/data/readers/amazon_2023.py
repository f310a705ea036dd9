"""Amazon reviews 2023 (Hou et al., arXiv 2403.03952), one category: CATEGORY.jsonl, or CATEGORY.csv of ratings.

Both hold user_id, parent_asin, rating and timestamp (milliseconds); the CSV has a header (the benchmark's
rating_only). A click is a review, whatever its stars, and the item is parent_asin, as in the authors' benchmark
(kcore_filtering.py of hyp1231/AmazonReviews2023), which keeps the first review of a user and item: ``prepare`` keeps
all. Beside them meta_CATEGORY.jsonl, where it is there: title, categories, store, image. No profiles.
"""

from __future__ import annotations

from pathlib import Path

from ppr_dist.data.readers.amazon import Amazon
from ppr_dist.data.readers.base import Raw

REVIEW = {"user_id": "VARCHAR", "parent_asin": "VARCHAR", "rating": "DOUBLE", "timestamp": "BIGINT"}
META = {
    "parent_asin": "VARCHAR",
    "title": "VARCHAR",
    "main_category": "VARCHAR",
    "categories": "VARCHAR[]",
    "store": "VARCHAR",
    "images": "STRUCT(large VARCHAR)[]",
}


class Amazon2023(Amazon):
    title = "Amazon reviews 2023"
    page = "https://amazon-reviews-2023.github.io"
    patterns = ("*.jsonl", "*.csv")

    def clicks(self, raw: Raw, file: Path) -> str:
        log = raw.csv(file, REVIEW, header=True) if ".csv" in file.name else raw.json(file, REVIEW)
        return f"SELECT user_id, parent_asin AS item_id, rating, epoch_ms(timestamp) AS timestamp FROM {log}"

    def products(self, raw: Raw, file: Path) -> str:
        columns = (
            "parent_asin AS item_id, title, main_category, categories AS category, store, images[1].large AS image"
        )
        return f"SELECT {columns} FROM {raw.json(file, META)}"
