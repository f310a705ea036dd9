"""Every input and option that ``prepare`` refuses: one line that names it, status 2, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ppr_dist import prepare as command
from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.errors import UserError
from tests.click_logs import make_log, save

ROOT = Path(__file__).resolve().parents[4]
Change = Callable[[pd.DataFrame], pd.DataFrame]


def same(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def without(column: str) -> Change:
    return lambda frame: frame.drop(columns=column)


def null(column: str, rows: int = 1) -> Change:
    """Return a change that makes the first ``rows`` values unknown and keeps the others integers."""
    return lambda frame: frame.assign(**{column: pd.array([pd.NA] * rows + frame[column].tolist()[rows:], "Int64")})


def cast(column: str, kind: type) -> Change:
    return lambda frame: frame.assign(**{column: frame[column].astype(kind)})


# What is done to the log, what to the profiles, the options, and a pattern of the complaint.
LOGS: list[tuple[Change, Change, dict[str, Any], str]] = [
    (without("item_id"), same, {}, "interactions.parquet: no column 'item_id'; it has user_id, timestamp"),
    (without("timestamp"), same, {}, "'timestamp' to order by .--order-column names another.; it has"),
    (lambda log: log.iloc[:0], same, {}, "interactions.parquet: no interactions"),
    (null("timestamp"), same, {}, "interactions.parquet: column 'timestamp' is null in 1 of"),
    (cast("timestamp", str), same, {}, "interactions.parquet: column 'timestamp' is text"),
    (null("user_id"), same, {}, "interactions.parquet: column 'user_id' is null in 1 of"),
    (null("item_id", 2), same, {}, "interactions.parquet: column 'item_id' is null in 2 of"),
    (cast("item_id", float), same, {}, "interactions.parquet: column 'item_id' is DOUBLE.*never a float"),
    (same, without("user_id"), {}, "users.parquet: no column 'user_id'; it has age, city"),
    (same, cast("user_id", float), {}, "users.parquet: column 'user_id' is DOUBLE"),
    (same, cast("user_id", str), {}, "users.parquet: user ids are string, but int64 in"),
    (same, null("user_id"), {}, "users.parquet: column 'user_id' is null in 1 of"),
    (same, lambda profile: pd.concat([profile, profile[2:3]]), {}, "users.parquet: user -36 has 2 rows"),
    (same, same, {"attributes": "age,town"}, "users.parquet: no column 'town'; it has user_id, age, city"),
    (same, lambda profile: profile.rename(columns={"city": "items"}), {}, "'items' cannot be an attribute"),
    (same, lambda profile: profile.rename(columns={"city": "times"}), {}, "'times' cannot be an attribute"),
    (same, lambda profile: profile.assign(age=1.5), {}, "column 'age' holds fractions.*--buckets.age"),
    (same, lambda profile: profile.assign(age=np.inf), {}, "column 'age' holds 'inf', which is not a finite number"),
    (
        same,
        lambda profile: profile.assign(age=np.inf),
        {"buckets": {"age": 3}},
        "'age' holds 'inf', which is not a fin",
    ),
    (same, lambda profile: profile.assign(age=1e300), {}, "column 'age' holds whole numbers beyond 10\\^38: give it b"),
    (
        same,
        lambda profile: profile.assign(age=True),
        {"buckets": {"age": 3}},
        "'age' of .*users.parquet is not numeric",
    ),
    (same, lambda profile: profile.assign(age=[[1]] * len(profile)), {}, "column 'age' is BIGINT"),
    (same, same, {"buckets": {"city": 3}}, "users.parquet: column 'city' holds '[^']+', which is not a number"),
    (same, same, {"buckets": {"town": 3}}, "buckets.town: no such attribute; they are age, city"),
    (same, same, {"min_item_count": 10**6}, "interactions.parquet: no item is seen 1000000 times"),
    (same, same, {"order_column": "when"}, "interactions.parquet: no column 'when'"),
    (same, same, {"memory_limit": "much"}, "memory_limit: 'much' is not a size"),
]


@pytest.mark.parametrize(("change_log", "change_profile", "options", "pattern"), LOGS)
def test_bad_rows_and_columns(
    tmp_path: Path, change_log: Change, change_profile: Change, options: dict[str, Any], pattern: str
) -> None:
    log, profile = make_log(users=30)
    paths = save(tmp_path, change_log(log), change_profile(profile))
    with pytest.raises(UserError, match=pattern) as refused:
        prepare(*paths, tmp_path / "data", PrepareConfig(**options))
    assert "\n" not in str(refused.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["interactions.parquet", "users.parquet"]


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("absent.parquet", None, "absent.parquet: no such file"),
        ("log.parquet", b"PAR1 not really", "log.parquet: cannot be read"),
        ("log.txt", b"user_id", "log.txt: not a .parquet or .csv file"),
        ("log.csv", b"user_id,item_id,timestamp\n1,2,3\n1,2\n", "log.csv: cannot be read.*Line: 3"),
        (
            "log.csv",
            b"user_id,item_id,timestamp\n" + b"1,2,3\r\n" * 3000,
            "log.csv: cannot be read(?!.*Possible fixes)",
        ),
        ("log.csv", b"user_id,item_id,timestamp\n1,2.0,3\n1,3.0,3\n", "log.csv: column 'item_id' is DOUBLE"),
        ("log.csv", b"user_id,item_id,timestamp\n1,,3\n", "log.csv: column 'item_id' is null in 1 of 1"),
        ("log.csv", b"user_id,item_id,timestamp\n", "log.csv: no interactions"),
        ("log.csv", b"", "log.csv: line 1 must name the columns"),
        ("log.csv", b"user_id,item_id,item_id\n1,2,3\n", "log.csv: line 1 must name the columns, each once"),
        ("log.csv", b"user_id,item_id,timestamp\n1,\xff,3\n", "log.csv: cannot be read.*Line: 2"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes | None, pattern: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=pattern) as refused:
        prepare(str(tmp_path / name), None, tmp_path / "data", PrepareConfig())
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "data").exists()


def test_an_existing_folder_is_replaced_only_when_told(tmp_path: Path) -> None:
    log, profile = make_log(users=30)
    paths = save(tmp_path, log, profile)
    out = tmp_path / "data"
    prepare(*paths, out, PrepareConfig())
    with pytest.raises(UserError, match="not empty"):
        prepare(*paths, out, PrepareConfig())
    before = load_manifest(out)
    with pytest.raises(UserError, match="no such file"):
        prepare(str(tmp_path / "absent.csv"), None, out, PrepareConfig(), overwrite=True)
    assert load_manifest(out) == before
    prepare(*paths, out, PrepareConfig(seed=1), overwrite=True)
    assert load_manifest(out) != before
    with pytest.raises(UserError, match="lies inside --out"):
        prepare(*paths, tmp_path, PrepareConfig(), overwrite=True)


def test_flags_config_file_and_their_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, profile = make_log(users=40)
    interactions, users = save(tmp_path, log, profile)
    base = ["--interactions", interactions, "--users", str(users)]
    (tmp_path / "c.yaml").write_text("simulate_cold: 0.5\nattributes: [age]\n")
    command.main([*base, "--out", str(tmp_path / "a"), "--config", str(tmp_path / "c.yaml"), "--buckets.age", "3"])
    command.main(
        [
            *base,
            "--out",
            str(tmp_path / "b"),
            "--simulate-cold",
            "0.5",
            "--attributes",
            "age",
            "--buckets={age: 3}",
        ]
    )
    command.main(
        [
            *base,
            "--out",
            str(tmp_path / "c"),
            "--simulate_cold=0.5",
            "--attributes=[age]",
            "--buckets",
            "{age: 3}",
        ]
    )
    assert load_manifest(tmp_path / "a") == load_manifest(tmp_path / "b") == load_manifest(tmp_path / "c")
    assert "tune-test" in capsys.readouterr().out
    (tmp_path / "bad.yaml").write_text("simulate_coldness: 0.5\n")
    for wrong, pattern in (
        (["--simulate-coldness", "1"], "--simulate-coldness"),
        (["--config", str(tmp_path / "bad.yaml")], "simulate.coldness"),
        (["--seed", "1.5"], "seed"),
        (["--simulate-cold", "2"], "simulate_cold must lie between 0 and 1"),
        (["--tune-test-fold", "6"], "tune_test_fold 6: tune_test_fraction 0.2 makes 5 folds"),
        (["--tune-test-fraction", "0.3", "--tune-test-fold", "2"], "makes 3.33333 folds; it takes a whole number"),
        (["--cold-clicks", "0"], "cold_clicks must be at least 1, got 0"),
        (["--buckets.age", "[3, 1]"], "buckets.age: edges must be increasing"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ):
        with pytest.raises(UserError, match=pattern) as refused:
            command.main([*base, "--out", str(tmp_path / "d"), *wrong])
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="interactions"):
        command.main(["--out", str(tmp_path / "d")])
    assert not (tmp_path / "d").exists()


def test_the_command_fails_with_one_line_and_status_2(tmp_path: Path) -> None:
    log, profile = make_log(users=30)
    interactions, users = save(tmp_path, log, pd.concat([profile, profile]))
    words = ["--interactions", interactions, "--users", str(users), "--out", str(tmp_path / "data")]
    done = subprocess.run(
        [sys.executable, "-m", "ppr_dist.prepare", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "users.parquet" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["interactions.parquet", "users.parquet"]
