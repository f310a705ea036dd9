"""Words of items' texts: the vocabulary, the first known ones of each item, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ppr_dist.data.item_data import read_item_data
from ppr_dist.data.manifest import TOKEN_BASE, Manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.errors import UserError

TEXTS = {
    1: ("The Red, the BLACK", ["Drama"]),
    2: ("red red wine", ["Drama", "Music"]),
    3: ("黑客帝国 2", []),
    5: ("nothing", ["Drama"]),
    6: (None, []),
}
"""Item 4 is clicked and not described; 6 is described and not clicked."""


def prepared(folder: Path, **options: object) -> tuple[Manifest, dict[int, list[int]]]:
    log = pd.DataFrame({"user_id": [1] * 5, "item_id": [1, 2, 3, 4, 5], "position": range(5)})
    log.to_parquet(folder / "log.parquet")
    items = pd.DataFrame({"item_id": list(TEXTS), "title": [t for t, _ in TEXTS.values()], "price": 1.5})
    items["genres"] = [genres for _, genres in TEXTS.values()]
    items.to_parquet(folder / "items.parquet")
    config = PrepareConfig(**({"min_word_count": 1} | options))  # type: ignore[arg-type]
    manifest = prepare(str(folder / "log.parquet"), None, folder / "data", config, items=str(folder / "items.parquet"))
    rows = read_item_data(folder / "data", manifest, ["tokens"])["tokens"].astype(int)
    high, low = np.split(rows, 2, axis=1)
    ids = pq.read_table(folder / "data" / "items.parquet").column("item_id").to_pylist()
    return manifest, dict(zip(ids, (high * TOKEN_BASE + low).tolist(), strict=True))


def test_each_item_has_its_first_words_numbered_by_how_often_they_stand(tmp_path: Path) -> None:
    manifest, tokens = prepared(tmp_path, text_length=4)
    # drama and red 3 times, the twice; then by the alphabet.
    order = ["drama", "red", "the", "2", "black", "music", "nothing", "wine", "国", "客", "帝", "黑"]
    number = {word: n for n, word in enumerate(order, 1)}
    words = {1: "the red the black", 2: "red red wine drama", 3: "黑 客 帝 国", 4: "", 5: "nothing drama", 6: ""}
    for item, text in words.items():
        found = [number[word] for word in text.split()]
        assert tokens[item] == found + [0] * (4 - len(found)), item
    data = manifest.item_data["tokens"]
    assert (data.kind, data.columns, data.values, data.known) == ("tokens", 8, len(order), 4)


def test_words_outside_the_vocabulary_leave_no_gap(tmp_path: Path) -> None:
    _, tokens = prepared(tmp_path, vocabulary=2, text_length=3)
    assert tokens[1] == [2, 1, 0]
    assert tokens[2] == [2, 2, 1]


def test_columns_may_be_chosen(tmp_path: Path) -> None:
    manifest, tokens = prepared(tmp_path, text_columns="genres")
    assert manifest.item_data["tokens"].values == 2
    assert [tokens[item][:2] for item in (1, 2, 3)] == [[1, 0], [1, 2], [0, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_columns": "name"}, "no column 'name'"),
        ({"text_columns": "price", "min_word_count": 99}, "no word stands there 99 times"),
        ({"code_levels": 2}, "no --item-features.NAME is given"),
        ({"code_values": 2048}, "code_values must be less than 2048"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, **options)
