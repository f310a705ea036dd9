"""Amazon reviews 2018 (Ni, Li & McAuley, EMNLP 2019), one category: reviews as JSON lines, or ratings as CSV.

Reviews: CATEGORY.json.gz, or CATEGORY_5.json.gz where users and items have five (reviewerID, asin, overall,
unixReviewTime); ratings: CATEGORY.csv (item, user, rating, seconds; no header). A click is a review, whatever its
stars: as Kang & McAuley (SASRec, ICDM 2018, IV-A) and most after them read these. Times are days, so many are tied.
Beside them meta_CATEGORY.json.gz, where it is there: title, brand, category, image. No profiles.
"""

from __future__ import annotations

from pathlib import Path

from ppr_dist.data.readers.amazon import Amazon, reviews_or_ratings
from ppr_dist.data.readers.base import Raw

META = {
    "asin": "VARCHAR",
    "title": "VARCHAR",
    "brand": "VARCHAR",
    "category": "VARCHAR[]",
    "imageURLHighRes": "VARCHAR[]",
}


class Amazon2018(Amazon):
    title = "Amazon reviews 2018"
    page = "https://nijianmo.github.io/amazon/index.html"
    patterns = ("*.json", "*.csv")

    def clicks(self, raw: Raw, file: Path) -> str:
        return reviews_or_ratings(raw, file, ("item_id", "user_id", "rating", "timestamp"))

    def products(self, raw: Raw, file: Path) -> str:
        columns = "asin AS item_id, title, brand, category, imageURLHighRes[1] AS image"
        return f"SELECT {columns} FROM {raw.json(file, META)}"
