"""The README's five minutes, as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from ppr_dist.data.synthetic.catalogue import SyntheticConfig, generate
from tests.commands import succeed

ROOT = Path(__file__).resolve().parents[2]


def test_the_five_minutes_run_on_a_log_without_cold_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw"
    generate(SyntheticConfig(users=120, items=300, max_clicks=14, topics=8, cold_fraction=0.0), raw)
    log = pd.read_parquet(raw / "interactions.parquet")
    assert log.groupby("user_id").size().min() >= 10
    log.to_parquet(tmp_path / "clicks.parquet")
    (raw / "users.parquet").rename(tmp_path / "users.parquet")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)

    for words in commands_of_the_readme():
        if words[0] == "torchrun":
            assert words[1:5] == ["--standalone", "--nproc-per-node", "2", "-m"]
            succeed(words[5].removeprefix("ppr_dist."), *words[6:], world_size=2)
        else:
            assert words[:2] == ["python", "-m"]
            succeed(words[2].removeprefix("ppr_dist."), *words[3:])

    report = (tmp_path / "report" / "report.md").read_text()
    assert "ppr-light" in report
    assert "pre-train" in report
    assert pd.read_parquet(tmp_path / "recommendations").user_id.nunique() == 120


def commands_of_the_readme() -> list[list[str]]:
    """The words of each command of the block in "Your own data in five minutes", but for its first line."""
    section = (ROOT / "README.md").read_text().split("## Your own data in five minutes")[1].split("\n## ")[0]
    block = re.findall(r"```bash\n(.*?)```", section, re.S)[0]
    environment, commands = block.replace("\\\n", " ").split("\n", 1)
    assert environment == "make env && source .venv/bin/activate"
    return [shlex.split(line) for line in commands.splitlines() if line]
