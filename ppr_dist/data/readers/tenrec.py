r"""Tenrec, of Tencent's QQ Browser (QB) and QK: one of QB-video.csv, QK-video.csv, QB-article.csv, QK-article.csv.

A click is a row with click = 1 (as in the authors' gen_sbr.py); the others were shown. There is no time: the order of
the file is the order of clicks, as in the authors' code. Gender and age are columns of the log; where the rows of a
user or an item differ, the smallest value counts. ``\N`` is unknown.
"""

from __future__ import annotations

from ppr_dist.data.prepare.sources import csv_header
from ppr_dist.data.readers.base import Log, Raw, Reader

CATEGORIES = ("video_category", "category_first", "category_second")
"""Columns of an item's category: the first of videos, the others of articles."""


class Tenrec(Reader):
    title = "Tenrec"
    page = "https://github.com/yuangh-x/2022-NIPS-Tenrec"
    terms = "CC BY-NC 4.0, and the licence agreement of its site"

    def read(self, raw: Raw) -> Log:
        file = raw.file("Q[BK][-_]video.csv", "Q[BK][-_]article.csv", "sbr_data*.csv")
        categories = {name: "VARCHAR" for name in csv_header(str(file), [file]) if name in CATEGORIES}
        # Numbers may be written as 1.0.
        columns = {"user_id": "BIGINT", "item_id": "BIGINT", "click": "DOUBLE", "gender": "DOUBLE", "age": "DOUBLE"}
        log = raw.csv(file, columns | categories, header=True, null=("", r"\N"))
        known = "".join(f", min({name}) AS {name.replace('video_', '')}" for name in categories)
        people = "min(gender)::BIGINT AS gender, min(age)::BIGINT AS age"
        return Log(
            interactions="SELECT user_id, item_id, position FROM"
            f" (SELECT *, row_number() OVER () AS position FROM {log}) WHERE click = 1",
            users=f"SELECT user_id, {people} FROM {log} GROUP BY user_id ORDER BY user_id",
            items=f"SELECT item_id{known} FROM {log} GROUP BY item_id ORDER BY item_id",
            left_out={"rows without a click": f"SELECT count(*) FROM {log} WHERE click IS DISTINCT FROM 1"},
        )
