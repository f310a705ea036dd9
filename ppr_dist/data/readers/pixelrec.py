"""PixelRec, Pixel8M, 1M, 200K, 50K (readme.md and dataload.py of westlake-repl/PixelRec): a CSV with a header.

Pixel200K.csv (interaction.csv of 50K): item_id, user_id, timestamp, in whatever order the header names them; each row
is a click. Beside it item_info.csv, where it is there: title, title_en, tag, description; and the covers, a picture
for each item in a folder whose name has "cover" in it, of which the path is kept. No profiles.
"""

from __future__ import annotations

from ppr_dist.data.prepare.sources import csv_header, literal
from ppr_dist.data.readers.base import Log, Raw, Reader, seconds_or_milliseconds

TEXTS = ("title", "title_en", "tag", "description")


def image(raw: Raw, prefix: str = "") -> str:
    """SQL of the path of an item's picture below the folder ``raw``; null where there is no folder of covers."""
    folders = [p for p in raw.path.rglob(f"{prefix}*cover*") if p.is_dir()] if raw.path.is_dir() else []
    if not folders:
        return "NULL::VARCHAR"
    folder = literal(f"{min(folders).relative_to(raw.path)}/")
    return f"{folder} || item_id || '.jpg'"


class PixelRec(Reader):
    title = "PixelRec"
    page = "https://github.com/westlake-repl/PixelRec"
    terms = "altered copies may not be passed on"

    def read(self, raw: Raw) -> Log:
        columns = {"item_id": "VARCHAR", "user_id": "VARCHAR", "timestamp": "BIGINT"}
        log = raw.csv(raw.file("Pixel*.csv", "interaction*.csv"), columns, header=True)
        info = raw.optional("item_info*.csv")
        items = None
        if info is not None:
            texts = [name for name in csv_header(str(info), [info]) if name in TEXTS]
            table = raw.csv(info, dict.fromkeys(["item_id", *texts], "VARCHAR"), header=True)
            items = f"SELECT *, {image(raw)} AS image FROM {table}"
        return Log(
            interactions=f"SELECT user_id, item_id, {seconds_or_milliseconds('timestamp')} AS timestamp FROM {log}",
            items=items,
        )
