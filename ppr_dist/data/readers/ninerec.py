"""NineRec, one of its data sets (README of westlake-repl/NineRec): NAME_item.csv, NAME_pair.csv or NAME_behaviour.tsv.

NAME_pair.csv has no header: user, item, timestamp by the README; item, user, timestamp by its get_behaviour.py. So
the items are the column that NAME_item.csv (item, text in Chinese, text in English; no header) knows, and where that
does not tell them apart the file is refused. QB and TN are published without times; their order is that of
NAME_behaviour.tsv (user, tab, items with a blank between, oldest first). Each item is a click. An item that
NAME_item.csv lacks stays, without a text. Pictures, where they are there, are NAME_cover/ITEM.jpg. No profiles.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

from ppr_dist.data.prepare.sources import named_errors, scalars
from ppr_dist.data.readers.base import Log, Raw, Reader, first_of_each, seconds_or_milliseconds
from ppr_dist.data.readers.pixelrec import image
from ppr_dist.errors import UserError

SURE = 10
"""One column must hold known items this many times as often as the other."""


def fields(file: Path) -> int:
    """How many fields the first line of a CSV has."""
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8-sig", errors="replace", newline="") as text:
        return len(next(csv.reader(text), []))


class NineRec(Reader):
    title = "NineRec"
    page = "https://github.com/westlake-repl/NineRec"
    terms = "altered copies may not be passed on"

    def read(self, raw: Raw) -> Log:
        file = raw.file("*_item.csv")
        name = file.name.split("_item.csv")[0]
        texts = raw.csv(file, {"item_id": "VARCHAR", "title": "VARCHAR", "title_en": "VARCHAR"})
        pairs, behaviour = raw.optional(f"{name}_pair.csv"), raw.optional(f"{name}_behaviour.tsv")
        if pairs is not None and fields(pairs) == 3:
            log = self._pairs(raw, pairs, texts)
        elif behaviour is not None:
            log = self._sequences(raw, behaviour)
        else:
            raise UserError(f"{raw.path}: no {name}_pair.csv with times, and no {name}_behaviour.tsv in it")
        items = first_of_each("item_id", f"SELECT *, {image(raw, name)} AS image FROM {texts}")
        return Log(interactions=log, items=items)

    def _pairs(self, raw: Raw, file: Path, texts: str) -> str:
        table = raw.csv(file, {"a": "VARCHAR", "b": "VARCHAR", "timestamp": "BIGINT"})
        known = f"IN (SELECT item_id FROM {texts})"
        with named_errors(str(file)):
            a, b = scalars(raw.con, f"SELECT count(*) FILTER (a {known}), count(*) FILTER (b {known}) FROM {table}")
        if max(a, b) < SURE * min(a, b) or a == b:
            raise UserError(
                f"{file}: column 1 holds {a:,} items that the item file knows, column 2 {b:,}: which is it?"
            )
        item, user = ("a", "b") if a > b else ("b", "a")
        time = seconds_or_milliseconds("timestamp")
        return f"SELECT {user} AS user_id, {item} AS item_id, {time} AS timestamp FROM {table}"

    def _sequences(self, raw: Raw, file: Path) -> str:
        table = raw.csv(file, {"user_id": "VARCHAR", "items": "VARCHAR"}, delim="\t", quote="")
        listed = f"SELECT user_id, string_split(trim(items), ' ') AS items FROM {table}"
        return f"SELECT user_id, unnest(items) AS item_id, unnest(range(len(items))) AS position FROM ({listed})"
