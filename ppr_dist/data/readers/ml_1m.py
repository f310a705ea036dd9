"""MovieLens 1M (README of the data set): ratings.dat (user, item, rating, seconds), users.dat and movies.dat; ``::``.

A click is a rating, whatever its stars: as Kang & McAuley (SASRec, ICDM 2018, IV-A) and most after them read
MovieLens.
"""

from __future__ import annotations

from ppr_dist.data.readers.base import Log, Raw, Reader


class MovieLens1M(Reader):
    title = "MovieLens 1M"
    page = "https://grouplens.org/datasets/movielens/1m/"
    terms = "GroupLens: for research, not redistributed or used commercially without permission"

    def read(self, raw: Raw) -> Log:
        ratings = {"user_id": "BIGINT", "item_id": "BIGINT", "rating": "DOUBLE", "timestamp": "BIGINT"}
        people = {"user_id": "BIGINT", "gender": "VARCHAR", "age": "BIGINT", "occupation": "BIGINT", "zip": "VARCHAR"}
        films = {"item_id": "BIGINT", "title": "VARCHAR", "genres": "VARCHAR"}
        log = raw.csv(raw.file("ratings.dat"), ratings, delim="::", quote="")
        users = raw.csv(raw.file("users.dat"), people, delim="::", quote="")
        items = raw.csv(raw.file("movies.dat"), films, delim="::", quote="", encoding="latin-1")
        return Log(
            interactions=f"SELECT * FROM {log}",
            users=f"SELECT * FROM {users}",
            items=f"SELECT item_id, title, string_split(genres, '|') AS genres FROM {items}",
        )
