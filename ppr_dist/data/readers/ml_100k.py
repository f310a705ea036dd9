"""MovieLens 100K (README of the data set): u.data (user, item, rating, seconds; tabs), u.user and u.item (bars).

A click is a rating, whatever its stars: as Kang & McAuley (SASRec, ICDM 2018, IV-A) and most after them read
MovieLens.
"""

from __future__ import annotations

from ppr_dist.data.prepare.sources import identifier, literal
from ppr_dist.data.readers.base import Log, Raw, Reader

GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""The last 19 columns of u.item, 1 or 0 each."""


class MovieLens100K(Reader):
    title = "MovieLens 100K"
    page = "https://grouplens.org/datasets/movielens/100k/"
    terms = "GroupLens: for research, not redistributed or used commercially without permission"

    def read(self, raw: Raw) -> Log:
        ratings = {"user_id": "BIGINT", "item_id": "BIGINT", "rating": "DOUBLE", "timestamp": "BIGINT"}
        people = {"user_id": "BIGINT", "age": "BIGINT", "gender": "VARCHAR", "occupation": "VARCHAR", "zip": "VARCHAR"}
        films = {"item_id": "BIGINT", "title": "VARCHAR", "release": "VARCHAR", "video": "VARCHAR", "url": "VARCHAR"}
        flags = dict.fromkeys(GENRES, "TINYINT")
        genres = ", ".join(f"CASE WHEN {identifier(genre)} = 1 THEN {literal(genre)} END" for genre in GENRES)
        log = raw.csv(raw.file("u.data"), ratings, delim="\t", quote="")
        users = raw.csv(raw.file("u.user"), people, delim="|", quote="")
        items = raw.csv(raw.file("u.item"), films | flags, delim="|", quote="", encoding="latin-1")
        return Log(
            interactions=f"SELECT * FROM {log}",
            users=f"SELECT * FROM {users}",
            items=f"SELECT item_id, title, list_filter([{genres}], lambda genre: genre IS NOT NULL) AS genres"
            f" FROM {items}",
        )
