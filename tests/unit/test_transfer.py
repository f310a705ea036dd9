"""benchmarks.transfer: what is told of items and users, and trained parameters by formula."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import jobs
from benchmarks.jobs import Job
from benchmarks.paper.jobs import PROTOCOLS
from benchmarks.paper.methods import METHODS
from benchmarks.paper.study import Study
from benchmarks.transfer import catalogues, content
from benchmarks.transfer.__main__ import EXPERIMENTS
from benchmarks.transfer.cross_domain import CLICKS, LEAST, domains
from benchmarks.transfer.figures import FIGURES
from benchmarks.transfer.forgetting import Memory
from benchmarks.transfer.methods import ROWS, formula
from benchmarks.transfer.setting import Setting
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


def drawn(job: Job) -> dict[str, Any]:
    """A result as if ``job`` were done; of the better rows' ranks half as high as of the others."""
    result: dict[str, Any] = {"options": job.asked, "validation": 0.1, "epochs": 3, "curve": [0.05, 0.1, 0.1]}
    result |= {"trainable": 1_000, "parameters": 5_000, "saved_bytes": 9_000, "cpu_seconds": 2.0, "peak_bytes": 10**6}
    if isinstance(job, Memory):
        tasks = len(job.runs)
        kept = job.method == "continual"
        matrix = [[0.5 if kept or asked == after else 0.1 for asked in range(after + 1)] for after in range(tasks)]
        return {"options": job.asked, "accuracy": matrix, "identical": kept}
    result["lines"] = {"test": {"accuracy": 0.6, "majority_rate": 0.4}}
    (job.folder / "run").mkdir()
    better = any(word in str(job.folder) for word in ("features", "ppr", "fine-tune"))
    ranks = {"user_id": np.arange(40), "position": np.arange(40) % 5, "candidates": np.full(40, 300)}
    ranks["rank"] = 1 + np.random.default_rng(len(str(job.folder))).integers(0, 30 if better else 60, 40)
    asks = getattr(job, "asks", {})
    kept_ranks = {f"{ask} {name}": values for ask in asks for name, values in ranks.items()}
    if not asks:  # of benchmarks.paper
        kept_ranks = {name: ranks[name] for name in ("user_id", "position")}
        kept_ranks |= {f"{protocol} {name}": ranks[name] for protocol in PROTOCOLS for name in ("rank", "candidates")}
        passport = {"fold": "1 of 5", "seeds": {}}
        result["lines"] = [{"protocol": protocol, "passport": passport} for protocol in PROTOCOLS]
    np.savez(job.folder / "ranks.npz", **kept_ranks)
    return result


def quick(folder: Path) -> Setting:
    return Setting(
        logs=folder,
        work=folder / "work",
        workers=1,
        quick=True,
        seeds=2,
        epochs=1,
        trials=1,
        folds=(1,),
        users=None,
        names=("synthetic",),
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_made_whole_and_tells_of_no_user(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def done(asked: Sequence[Job], what: str, workers: int) -> list[dict[str, Any]]:
        assert len({job.folder for job in asked}) == len(asked), "two jobs in one folder"
        for job in (job for job in asked if not job.done):
            job.folder.mkdir(parents=True, exist_ok=True)
            (job.folder / "result.json").write_text(json.dumps(drawn(job)))
        return [job.result() for job in asked]

    monkeypatch.setattr(jobs, "run", done)
    monkeypatch.setattr(Setting, "prepared", lambda self, name, of, **options: tmp_path / name)
    monkeypatch.setattr(Study, "data", lambda self, fold, **variant: tmp_path)
    monkeypatch.setattr(Study, "pretrained", lambda self, name, seed, fold: tmp_path)
    info = SimpleNamespace(catalogue_for=lambda config: CATALOGUE)
    monkeypatch.setattr(runs, "read", lambda run: (Config(), info))
    for log in ("toys", "beauty"):
        (tmp_path / log).mkdir()
        pq.write_table(pa.table({"item_id": [1, 2], "attributes": [[1], [1, 2]]}), tmp_path / log / "items.parquet")
        clicks = pa.table({"user_id": [1, 1, 2], "item_id": [1, 2, 1], "position": [0, 1, 0]})
        pq.write_table(clicks, tmp_path / log / "interactions.parquet")
    (tmp_path / "ml-1m").mkdir()
    genres = [["Drama"]] * 6 + [["Action"]] * 6
    known = {"item_id": range(12), "title": ["Heat (1995)"] * 12, "genres": genres}
    pq.write_table(pa.table({name: list(values) for name, values in known.items()}), tmp_path / "ml-1m/items.parquet")
    users, items = np.repeat(np.arange(4), 12), np.tile(np.arange(12), 4)
    clicks = pa.table({"user_id": users, "item_id": items, "position": items})
    pq.write_table(clicks, tmp_path / "ml-1m" / "interactions.parquet")
    setting = quick(tmp_path)
    experiment = EXPERIMENTS[name]
    assert experiment.__doc__
    lines, kept = experiment(setting)
    assert sum(line.startswith("| ") for line in lines) > 5
    assert "user_id" not in json.dumps(kept)
    if name == "forgetting":
        assert "identical to the byte: yes." in "\n".join(lines)
        assert "identical to the byte: no." in "\n".join(lines)
    if name in FIGURES:
        FIGURES[name](json.loads(json.dumps(kept)), tmp_path / name)
        assert (tmp_path / f"{name}.svg").is_file()


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


def test_source_clicks_are_older_than_what_the_target_holds_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    genres = [["Drama"], ["Action"], ["Drama", "Action"], ["Comedy", "War"], ["Thriller", "War"], ["War"]]
    kinds = "st-st-"
    (tmp_path / "ml-1m").mkdir()
    films = pa.table({"item_id": range(60), "genres": [genres[item % 6] for item in range(60)]})
    pq.write_table(films, tmp_path / "ml-1m" / "items.parquet")
    lengths = rng.integers(1, 60, 50)
    log = {user: rng.integers(0, 60, length).tolist() for user, length in enumerate(lengths)}
    rows = [(user, item, n) for user, items in log.items() for n, item in enumerate(items)]
    shuffled = [rows[n] for n in rng.permutation(len(rows))]
    columns = dict(zip(("user_id", "item_id", "position"), zip(*shuffled, strict=True), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "ml-1m" / "interactions.parquet")

    expected: dict[str, dict[int, list[int]]] = {"source": {}, "target": {}}
    for user, items in log.items():
        target = [n for n, item in enumerate(items) if kinds[item % 6] == "t"][-CLICKS:]
        source = [n for n, item in enumerate(items) if kinds[item % 6] == "s" and n < (target[-2:] or [0])[0]]
        if min(len(source), len(target)) >= LEAST:
            expected["source"][user], expected["target"][user] = ([items[n] for n in at] for at in (source, target))
    assert 5 < len(expected["source"]) < 45

    out = domains(quick(tmp_path), "ml-1m", tmp_path / "out")
    for name, clicks in expected.items():
        found: dict[int, list[int]] = {}
        for row in sorted(pq.read_table(out / f"{name}.parquet").to_pylist(), key=lambda row: row["position"]):
            found.setdefault(row["user_id"], []).append(row["item_id"])
        assert found == clicks


def test_groups_of_films_share_neither_films_nor_users(tmp_path: Path) -> None:
    (tmp_path / "ml-1m").mkdir()
    genres = [["Drama"], ["Action"], ["Drama", "Action"], ["Western"]]
    known = {"item_id": list(range(24)), "title": ["Heat (1995)"] * 24, "genres": genres * 6}
    pq.write_table(pa.table(known), tmp_path / "ml-1m" / "items.parquet")
    users, items = np.repeat(np.arange(10), 24), np.tile(np.arange(24), 10)
    kept = (users > 0) | (items < 16)  # the first user has 4 clicks in each group
    clicks = pa.table({"user_id": users[kept], "item_id": items[kept], "position": items[kept]})
    pq.write_table(clicks, tmp_path / "ml-1m" / "interactions.parquet")
    folder = catalogues._films(quick(tmp_path))
    drama, action = (pq.read_table(folder / name / "interactions.parquet") for name in catalogues.FILMS)
    assert set(drama["item_id"].to_pylist()) == set(range(0, 24, 4))
    assert set(action["item_id"].to_pylist()) == set(range(1, 24, 4))
    of_drama, of_action = (set(part["user_id"].to_pylist()) for part in (drama, action))
    assert of_drama | of_action == set(range(1, 10))
    assert not of_drama & of_action
