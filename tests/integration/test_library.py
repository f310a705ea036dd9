"""``ppr_dist.library``: the commands as functions, in one process or on several ranks, as strict as a command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ppr_dist import library
from ppr_dist.data.synthetic.catalogue import SyntheticConfig, generate
from ppr_dist.errors import UserError
from tests.commands import succeed
from tests.integration.conftest import TINY

ROOT = Path(__file__).resolve().parents[2]


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it in one process, which an error in between does not end."""
    raw = tmp_path / "raw"
    generate(SyntheticConfig(users=120, items=300, max_clicks=14, topics=8, cold_fraction=0.0), raw)
    (raw / "interactions.parquet").rename(tmp_path / "clicks.parquet")
    (raw / "users.parquet").rename(tmp_path / "users.parquet")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text().split("## As a library")[1].split("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.S)
    imports, calls = example.split("\n\n")
    *before, last = calls.splitlines()
    between = [
        "from ppr_dist.errors import UserError",
        "try: evaluate(run_dir='absent', task='joint')",
        "except UserError as error: print(error)",
    ]
    after = ["import json", "print(json.dumps(rows))"]
    done = succeed("tests.snippet", "\n".join([imports, *before, *between, last, *after]))
    *_, rows = done.out[0].splitlines()
    assert "absent: not a run (no run.json)" in done.out[0]
    assert [row["task"] for row in json.loads(rows)] == ["few-shot", "zero-shot"]
    written = (tmp_path / "runs" / "shop-light" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == json.loads(rows)
    assert pd.read_parquet(tmp_path / "recommendations").user_id.nunique() == 120


def test_ranks_call_one_after_the_other(catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And folders may be called as one likes."""
    shutil.copytree(catalogue, tmp_path / "shop:v2")
    monkeypatch.chdir(tmp_path)
    tiny: dict[str, dict[str, Any]] = {}
    for name, value in zip(TINY[::2], TINY[1::2], strict=True):
        section, key = str(name).removeprefix("--").split(".")
        tiny.setdefault(section, {})[key] = value
    code = f"""
from ppr_dist.library import evaluate, pretrain, tune
pretrain(data="shop:v2", run_dir="pre:1", **{tiny})
tune(data="shop:v2", init="pre:1", run_dir="tuned", method="ppr-light", **{tiny})
print(evaluate(run_dir="tuned", task=["few-shot", "joint"], progress=False))
"""
    done = succeed("tests.snippet", code, world_size=2)
    rows = [text.splitlines()[-1] for text in done.out]
    assert rows[0] == rows[1]
    assert rows[0].startswith("[{'task': 'few-shot', ")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: library.evaluate(run_dir="r", task="joint", protocol="all"),
            "--protocol 'all': full, or sampled-N .*",
        ),
        (lambda: library.evaluate(task=["joint"]), "the following arguments are required: --run-dir"),
        (lambda: library.recommend(run_dir="r", users="u", out="o", top=3), "--top: no such option"),
        (lambda: library.pretrain(data="d", run_dir="r", train={"epoch": 3}), "--train.epoch: no such option"),
        (lambda: library.pretrain(data="d", run_dir="r", train={"lr": "high"}), "--train.lr: expected float, got high"),
        (lambda: library.pretrain(data="d", run_dir="r", train={"objectives": ["x"]}), "train.objectives 'x': .*"),
        (lambda: library.tune(data={1}), r"--data: no value of an option: \{1\} \(.*"),
        (lambda: library.prepare(interactions="c", out="o", buckets={"a.b": "x"}), "--buckets: expected int or list.*"),
    ],
)
def test_options_are_read_as_strictly_as_on_the_command_line(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        call()
    assert re.fullmatch(said, str(refused.value))


def test_the_configuration_file_comes_first_and_other_options_override_it() -> None:
    words = library.words({"out": Path("ö"), "buckets": {"größe.cm": 8}, "users": None, "resume": True, "config": "c"})
    assert words == ["--config=c", "--out=ö", '--buckets={"größe.cm": 8}', "--users=null", "--resume=true"]
