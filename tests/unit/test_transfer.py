"""benchmarks.transfer: what is told of items and users, and trained parameters by formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.paper.methods import METHODS
from benchmarks.transfer import content
from benchmarks.transfer.__main__ import EXPERIMENTS
from benchmarks.transfer.methods import ROWS, formula
from ppr_dist import runs
from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model, Profiles
from ppr_dist.model.backbones.sasrec import Settings as SASRec
from ppr_dist.tuning import TUNING_METHODS
from ppr_dist.tuning.patch import Settings as Patch

CATALOGUE = Catalogue(items=50, attributes={"age": 4, "city": 5, "gender": 3})


@pytest.mark.parametrize("row", [row for row in ROWS if METHODS[row].tune])
def test_trained_parameters_by_formula_are_those_of_the_model(row: str) -> None:
    method, name = METHODS[row], str(METHODS[row].tune)
    parts = {"sasrec": SASRec(layers=3, heads=1, ffn_multiple=2), "patch": Patch(**method.options.get("patch", {}))}
    config = Config(model=Model(dim=24, max_length=9), profiles=Profiles(attribute_dim=5, hidden=7), parts=parts)
    model = untuned_model(config, CATALOGUE)
    attach(model, name, config, CATALOGUE)
    dense = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    sizes = runs.table_sizes(config, CATALOGUE, name)
    tables = len(sizes.uses) * sum(CATALOGUE.attributes.values()) * 5
    items = 50 * 24 if TUNING_METHODS[name].trains_items else 0
    assert formula(row, config, CATALOGUE) == dense + tables + items


def test_experiments_say_what_they_ask() -> None:
    assert all(experiment.__doc__ for experiment in EXPERIMENTS.values())


def vectors(folder: Path) -> np.ndarray:
    return np.array(pq.read_table(folder / "features.parquet")["vector"].to_pylist())


def test_films_are_genres_decade_and_words(tmp_path: Path) -> None:
    titles = ["Toy Story (1995)", "Toy Story 2 (1999)", "Heat (1995)"]
    genres = [["Animation", "Comedy"], ["Animation", "Comedy"], ["Action"]]
    pq.write_table(pa.table({"item_id": [5, 3, 8], "title": titles, "genres": genres}), tmp_path / "items.parquet")
    found = vectors(content.movies(tmp_path / "items.parquet", tmp_path))
    assert found.shape == (3, content.WIDTH)
    first, second, third = found
    assert [content.GENRES[n] for n in np.flatnonzero(first[:18])] == ["Animation", "Comedy"]
    assert [content.DECADES[n] for n in np.flatnonzero(third[18:28])] == [1990]
    # Both have "toy" and "story"; the second "2" besides, in one more column or on top of one of these.
    assert np.abs(second - first).sum() == 1
    assert np.abs(third[28:]).sum() == 1


def test_categories_of_two_catalogues_are_other_directions_of_one_space(tmp_path: Path) -> None:
    rows = {"item_id": [1, 2, 3], "attributes": [[1], [1, 2], [3]]}
    for name in ("toys", "beauty"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(rows), tmp_path / name / "items.parquet")
    toys, beauty = (
        vectors(content.products(tmp_path / name / "items.parquet", tmp_path / f"{name}-out"))
        for name in ("toys", "beauty")
    )
    unit = toys / np.linalg.norm(toys, axis=1, keepdims=True)
    # An item with a rare category beside a common one is nearer to those with the rare one: log(3/1) against log(3/2).
    assert unit[0] @ unit[1] == pytest.approx(np.log(1.5) / np.hypot(np.log(1.5), np.log(3)), abs=0.2)
    assert abs(unit[0] @ (beauty[0] / np.linalg.norm(beauty[0]))) < 0.4
