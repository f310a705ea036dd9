"""MovieLens 20M, and 25M and 32M of the same format (READMEs): ratings.csv and movies.csv; there are no profiles.

A click is a rating, whatever its stars: as Kang & McAuley (SASRec, ICDM 2018, IV-A) and most after them read
MovieLens.
"""

from __future__ import annotations

from ppr_dist.data.readers.base import Log, Raw, Reader


class MovieLens20M(Reader):
    title = "MovieLens 20M (25M, 32M)"
    page = "https://grouplens.org/datasets/movielens/"
    terms = "GroupLens: for research, not used commercially without permission"

    def read(self, raw: Raw) -> Log:
        ratings = {"userId": "BIGINT", "movieId": "BIGINT", "rating": "DOUBLE", "timestamp": "BIGINT"}
        films = {"movieId": "BIGINT", "title": "VARCHAR", "genres": "VARCHAR"}
        log = raw.csv(raw.file("ratings.csv"), ratings, header=True)
        items = raw.csv(raw.file("movies.csv"), films, header=True)
        genres = "CASE WHEN genres = '(no genres listed)' THEN [] ELSE string_split(genres, '|') END"
        return Log(
            interactions=f"SELECT userId AS user_id, movieId AS item_id, rating, timestamp FROM {log}",
            items=f"SELECT movieId AS item_id, title, {genres} AS genres FROM {items}",
        )
