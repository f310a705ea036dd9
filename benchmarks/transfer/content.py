"""What is told of items, from the files at hand: no network, no pre-trained encoder.

A folder gets ``features.parquet`` (item_id, vector) and ``texts.parquet`` (item_id, text: a list of words, for the
encoder ``tokens``). Hashes are BLAKE2, so that a word has the same column everywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ppr_dist.data.synthetic.catalogue import SyntheticConfig

GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
DECADES = tuple(range(1910, 2010, 10))
WIDTH = 128
"""Columns of features, of any log: those of two catalogues are one space."""
Vector = npt.NDArray[np.float32]


def movies(items: Path, out: Path) -> Path:
    """MovieLens: 18 genres and 10 decades, 1 or 0, and the title's words hashed with a sign into 100 columns."""

    def vector(title: str, genres: list[str]) -> Vector:
        known = [genre in genres for genre in GENRES] + [int(title[-5:-1]) // 10 * 10 == decade for decade in DECADES]
        return np.concatenate([known, hashed(_words(title), WIDTH - len(known))]).astype(np.float32)

    rows = pq.read_table(items).to_pylist()
    return _write(
        out,
        [row["item_id"] for row in rows],
        [vector(row["title"], row["genres"]) for row in rows],
        [[*row["genres"], f"{row['title'][-5:-2]}0s", *_words(row["title"])] for row in rows],
    )


def products(items: Path, out: Path) -> Path:
    """Amazon: an item's category numbers, each a random direction in 128 columns by hash, weighted by log(items / items
    that have it). Numbers of two catalogues are not the same categories, so the hash knows whose they are.
    """
    rows, name = pq.read_table(items).to_pylist(), items.parent.name
    counts: dict[int, int] = {}
    for row in rows:
        for number in row["attributes"]:
            counts[number] = counts.get(number, 0) + 1
    directions = {number: _direction(f"{name} {number}") for number in counts}

    def vector(numbers: list[int]) -> Vector:
        return np.sum([np.log(len(rows) / counts[n]) * directions[n] for n in numbers] or [np.zeros(WIDTH)], axis=0)

    vectors = [vector(row["attributes"]) for row in rows]
    return _write(out, [row["item_id"] for row in rows], vectors, [[f"c{n}" for n in r["attributes"]] for r in rows])


def invented(config: SyntheticConfig, out: Path) -> Path:
    """The synthetic catalogue: of each item four of the 12 words of its topic and two of 200 that say nothing, hashed
    with a sign into 128 columns.
    """
    rng = np.random.default_rng(config.seed)
    text = [
        [f"topic{i % config.topics}w{n}" for n in rng.permutation(12)[:4]]
        + [f"any{n}" for n in rng.integers(0, 200, 2)]
        for i in range(config.items)
    ]
    return _write(out, range(config.items), [hashed(words, WIDTH) for words in text], text)


def hashed(words: Iterable[str], columns: int) -> Vector:
    """±1 for each word, in the column and with the sign of its hash; added up."""
    out = np.zeros(columns, np.float32)
    for word in words:
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        out[(number >> 1) % columns] += 1 if number & 1 else -1
    return out


def _direction(word: str) -> Vector:
    """WIDTH signs by hash, of length 1."""
    bits = np.frombuffer(hashlib.blake2b(word.encode(), digest_size=WIDTH // 8).digest(), np.uint8)
    return ((np.unpackbits(bits) * 2.0 - 1) / np.sqrt(WIDTH)).astype(np.float32)


def _words(title: str) -> list[str]:
    """Lower case, without the year in brackets at its end."""
    return re.findall(r"[a-z0-9']+", title[:-6].lower())


def _write(out: Path, ids: Sequence[int], vectors: list[Vector], text: list[list[str]]) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    items = pa.array(ids)
    pq.write_table(pa.table({"item_id": items, "text": text}), out / "texts.parquet")
    pq.write_table(pa.table({"item_id": items, "vector": [v.tolist() for v in vectors]}), out / "features.parquet")
    return out
