"""Where scoring places the tables: as training did, where these machines can; as asked; else as this machine can."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import pytest
import yaml

from ppr_dist.errors import UserError
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.trained import load_trained
from tests.ranks import run_ranks

SHARDING = Path(__file__).parents[2] / "sharding"


def cluster(folder: Path, kind: str, base: str = "cpu.yaml", **changes: object) -> Path:
    body = yaml.safe_load((SHARDING / base).read_text()) | changes
    body["constraints"]["item"] = {"sharding_types": [kind]}
    path = folder / f"{kind}-{len(changes)}-{base}"
    path.write_text(yaml.safe_dump(body))
    return path


def place(
    context: DistributedContext, run: Path, cases: list[tuple[Path | None, Path | None]]
) -> list[tuple[str, str]]:
    """How items are cut, and what was said, where the run was trained by one cluster file and another is asked for."""
    found = []
    for own, asked in cases:
        body = yaml.safe_load((run / "config.yaml").read_text())
        if context.main:
            body["tables"]["cluster"] = str(own) if own else None
            (run / "config.yaml").write_text(yaml.safe_dump(body))
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                plan = load_trained(run, None, context, asked).scorer.embeddings.plan
                cut = {table["name"]: table["sharding_type"] for table in plan["tables"]}["item"]
            except UserError as error:
                cut = f"refused: {error}"
        found.append((cut, said.getvalue()))
    return found


@pytest.mark.parametrize("world_size", [2])
def test_tables_lie_as_in_training_where_they_can(tmp_path: Path, tuned: Path, world_size: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(tuned, run)
    column, table = cluster(tmp_path, "column_wise"), cluster(tmp_path, "table_wise")
    small = cluster(tmp_path, "table_wise", host_memory_gb=1e-6)
    gpu = cluster(tmp_path, "table_wise", base="gpu-8.yaml")
    cases = [(None, None), (column, None), (column, table), (gpu, None), (small, None), (tmp_path / "gone.yaml", None)]
    ranks = run_ranks(place, world_size, run, [*cases, (column, gpu)])
    assert [cut for cut, _ in ranks[0]][:6] == ["row_wise", "column_wise", "table_wise", *["row_wise"] * 3]
    assert [bool(said) for _, said in ranks[0]] == [False, False, False, True, True, True, False]
    for (_, said), reason in zip(
        ranks[0][3:6], ("describes cuda, and this runs on cpu", "fit", "gone.yaml"), strict=True
    ):
        assert said.startswith("ppr_dist: warning: tables are placed otherwise than in training: ")
        assert said.count("\n") == 1
        assert reason in said
    assert "describes cuda" in ranks[0][6][0]  # asked for outright: refused
    assert [cut for cut, _ in ranks[1]] == [cut for cut, _ in ranks[0]]
