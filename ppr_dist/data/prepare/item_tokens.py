"""Words of items' texts as numbers: a vocabulary of the most frequent, and each item's first ones.

Shapes: N items, L tokens of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ppr_dist.data.manifest import TOKEN_BASE, TOKENS, ItemData, item_data_file
from ppr_dist.data.prepare import logs
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.item_features import AT_ONCE, describe
from ppr_dist.data.prepare.sources import Source, identifier, named_errors, open_source, scalars
from ppr_dist.data.prepare.vectors import check_ids
from ppr_dist.errors import UserError

WORD = r"\p{Han}|[\p{L}\p{N}]+"
"""A Chinese character, or a run of letters and digits, in lower case."""


def open_texts(con: duckdb.DuckDBPyConnection, path: str, config: PrepareConfig, item_type: str) -> None:
    """Fill ``texts(item_id, words)`` of a file of items, and ``words(word)``, most frequent first.

    Raises :class:`UserError` naming the file where ids are missing or twice, or where there is no text.
    """
    source = open_source(con, path)
    types = logs.id_types(con, source, config.item_column)
    if item_type not in types:
        raise UserError(f"{path}: item ids are {types[0]}, but {item_type} in the log")
    text = text_of(source, config.text_column_names(), config.item_column)
    item = f"CAST({identifier(config.item_column)} AS {logs.SQL_TYPES[item_type]})"
    with named_errors(path):
        con.execute(
            f"CREATE TABLE texts AS SELECT {item} AS item_id,"
            f" regexp_extract_all(lower({text}), '{WORD}') AS words FROM {source.table}"
        )
    check_ids(con, "texts", path)
    con.execute(
        "CREATE TABLE words AS SELECT word FROM (SELECT unnest(words) AS word FROM texts) GROUP BY word"
        f" HAVING count(*) >= {config.min_word_count} ORDER BY count(*) DESC, word LIMIT {config.vocabulary}"
    )
    if scalars(con, "SELECT count(*) FROM words") == (0,):
        raise UserError(f"{path}: no word stands there {config.min_word_count} times (min_word_count)")


def text_of(source: Source, columns: list[str] | None, item_column: str) -> str:
    """SQL of an item's text: ``columns`` one after another, by default all of text or lists of it."""
    if columns is None:
        columns = [n for n, kind in source.columns.items() if n != item_column and kind.startswith("VARCHAR")]
    for column in columns:
        source.require(column)
    if not columns:
        raise UserError(f"{source.path}: no column of text; it has {', '.join(source.columns)}")
    return f"concat_ws(' ', {', '.join(_text(name, source.columns[name]) for name in columns)})"


def _text(name: str, kind: str) -> str:
    return f"array_to_string({identifier(name)}, ' ')" if kind.endswith("]") else f"CAST({identifier(name)} AS VARCHAR)"


def write_tokens(con: duckdb.DuckDBPyConnection, folder: Path, items: int, length: int) -> ItemData:
    """Write ``item_data.tokens.npy``, float16 [N, 2·L]: of each item's first L known words the number from 1, 0 behind.

    A number is two of half precision, which is exact up to TOKEN_BASE: first the high digits of all, then the low ones.
    """
    vocabulary = con.sql("SELECT word FROM words ORDER BY rowid").to_arrow_table().column(0).combine_chunks()
    shape = (items, 2 * length)
    out = np.lib.format.open_memmap(folder / item_data_file(TOKENS), mode="w+", dtype=np.float16, shape=shape)
    sql = "SELECT i.item_index, t.words FROM items i JOIN texts t ON i.item_id = t.item_id"
    for batch in con.sql(sql).to_arrow_reader(AT_ONCE):
        tokens = first_tokens(batch.column(1), vocabulary, length)
        out[batch.column(0).to_numpy()] = np.concatenate([tokens // TOKEN_BASE, tokens % TOKEN_BASE], axis=1)
    out.flush()
    return describe(out, "tokens", values=len(vocabulary))


def first_tokens(words: pa.ListArray, vocabulary: pa.Array | Sequence[str], length: int) -> np.ndarray:
    """Numbers from 1 of each list's first ``length`` words that ``vocabulary`` has, int64 [n, length]; 0 behind."""
    row = pc.list_parent_indices(words).to_numpy()
    number = pc.fill_null(pc.index_in(pc.list_flatten(words), value_set=pa.array(vocabulary)), -1).to_numpy() + 1
    row, number = row[number > 0], number[number > 0]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    tokens = np.zeros((len(words), length), np.int64)
    tokens[row[place < length], place[place < length]] = number[place < length]
    return tokens
