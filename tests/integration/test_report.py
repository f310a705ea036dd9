"""``report``: runs side by side, each row its own, and only rows that compare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppr_dist import report
from ppr_dist.data.manifest import load_manifest
from ppr_dist.errors import UserError
from tests.commands import succeed


@pytest.fixture(scope="module")
def evaluated(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of the name ``run``, in ``a`` and ``b``; b has been evaluated twice."""
    root = tmp_path_factory.mktemp("report")
    for name, times in (("a", 1), ("b", 2)):
        shutil.copytree(tuned, root / name / "run", ignore=shutil.ignore_patterns("evaluations.jsonl"))
        for _ in range(times):
            words = ("--task", "few-shot", "zero-shot", "--progress", "false")
            succeed("evaluate", "--run-dir", root / name / "run", *words)
    return root


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "evaluations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        change(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def runs(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    shutil.copytree(evaluated, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return ["a/run", "b/run"]


def test_a_row_says_what_it_is_of(evaluated: Path, catalogue: Path) -> None:
    for line in (evaluated / "b" / "run" / "evaluations.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["run"] == str(evaluated / "b" / "run")
        assert row["data"] == load_manifest(catalogue).fingerprint
        assert row["step"] > 0
        assert (row["seed"], row["leave_out_seen"]) == (0, False)
        said = row["passport"]
        assert said["split"] == "tune-test"
        assert said["fold"] == "1 of 5"
        assert said["candidates"] == "the target and 99 uniform unclicked items"
        assert said["ties"] == "hash of (seed 0, user, item)"
        assert said["seeds"] == {"prepare": 0, "pretrain": 0, "tune": 0, "negatives": 0}
        assert (said["target_time"], said["trained_on_validation"], said["seen_targets"]) == (False, False, True)
        clicks = load_manifest(catalogue).clicks
        assert said["tied_clicks"] == pytest.approx(clicks["tied"] / clicks["read"], abs=1e-6)


def test_runs_of_one_name_stay_apart_and_the_last_evaluation_counts(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Path("b/run/evaluations.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    Path("b/run/evaluations.jsonl").write_text("\n".join([json.dumps({**first, "auc": 9.0}), *lines[1:]]) + "\n")
    report.main(["--runs", *runs, "--out", "out"])
    out, err = capsys.readouterr()
    table = Path("out/report.md").read_text()
    assert out.startswith(table)
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == ["a/run", "a/run", "b/run", "b/run"]
    assert "9.0" not in table
    assert err.count("\n") == 1
    assert "b/run: evaluated more than once under sampled-99, the last counts: ppr-light few-shot (2 times)" in err
    assert Path("out/report.png").stat().st_size > 10_000


def test_what_is_not_defined_is_no_figure(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def undefined(row: dict[str, Any]) -> None:
        if row["task"] == "zero-shot":
            row.update(dict.fromkeys(report._metrics(row)))
        else:
            row.update(task="joint", ranked_last=7)

    edited(Path("b/run"), undefined)
    report.main(["--runs", *runs, "--out", "out"])
    table, notes = Path("out/report.md").read_text().split("\n\n")
    cells = [[cell.strip() for cell in line.split("|")[6:-1]] for line in table.splitlines()[2:]]
    assert cells[3] == ["not defined"] * 5
    assert all(float(cell) >= 0 for row in cells[:3] for cell in row)
    instances = table.splitlines()[4].split("|")[5].strip()
    assert notes.splitlines() == [
        "not defined: without prompt and profile encoder a model scores all items alike before a user's first click.",
        f"b/run, ppr-light: joint counts 7 of its {instances} instances, the zero-shot ones, as ranked last.",
    ]
    assert capsys.readouterr().out.startswith(f"{table}\n\n{notes}")
    assert Path("out/report.png").stat().st_size > 10_000
    with pytest.raises(UserError, match="--metric task: no such metric; there are auc, hit@5"):
        report.main(["--runs", *runs, "--out", "out", "--metric", "task"])


def test_the_table_has_the_metrics_of_every_task(runs: list[str]) -> None:
    def classified(row: dict[str, Any]) -> None:
        for name in report._metrics(row):
            del row[name]
        row.update(task="attribute", accuracy=0.5, recall=0.25)

    edited(Path("b/run"), classified)
    report.main(["--runs", *runs, "--out", "out", "--metric", "hit@20"])
    head, _, *rows = [line.split("|")[6:-1] for line in Path("out/report.md").read_text().splitlines()]
    names = [name.strip() for name in head]
    assert names == ["AUC", "HIT@5", "HIT@10", "NDCG@5", "NDCG@10", "ACCURACY", "RECALL", "HIT@20"]
    assert [[bool(cell.strip()) for cell in row] for row in (rows[0], rows[-1])] == [
        [True] * 5 + [False, False, True],
        [False] * 5 + [True, True, False],
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda row: row.update(data="f" * 64),
            r"b/run/.*\.jsonl:3 is of another data set \(f+\) than a/run/.*:1",
        ),
        (lambda row: row["passport"]["seeds"].update(negatives=7), r"another seeds.negatives \(7\) than .* \(0\)"),
        (lambda row: row["passport"].update(seen_targets=False), "another seen_targets"),
        (lambda row: row["passport"].update(target_time=True), r"another target_time \(True\) than"),
        (lambda row: row["passport"].update(trained_on_validation=True), "another trained_on_validation"),
        (lambda row: row["passport"].update(order="position"), "another order"),
        (lambda row: row["passport"].update(tied_clicks=0.5), "another tied_clicks"),
        (lambda row: row["passport"].update(fold="2 of 5"), r"another fold \(2 of 5\) than .* \(1 of 5\)"),
        (lambda row: row["passport"].update(candidates="all"), "another candidates"),
        (lambda row: row.pop("passport"), "written by another version, which left out 'passport'; evaluate again"),
        (lambda row: row.pop("data"), "written by another version, which left out 'data'; evaluate again"),
        (lambda row: row.pop("task"), "line 1 is not an evaluation"),
    ],
)
def test_rows_that_do_not_compare_are_refused(runs: list[str], change: Callable[[Any], Any], said: str) -> None:
    edited(Path("b/run"), change)
    with pytest.raises(UserError, match=said):
        report.main(["--runs", *runs, "--out", "out"])
    assert not Path("out").exists()


def test_another_seed_of_the_model_compares(runs: list[str]) -> None:
    edited(Path("b/run"), lambda row: row["passport"]["seeds"].update(tune=7, pretrain=7))
    report.main(["--runs", *runs, "--out", "out"])


def test_a_run_is_named_once(runs: list[str]) -> None:
    with pytest.raises(UserError, match="twice"):
        report.main(["--runs", *runs, "./a/run", "--out", "out"])
