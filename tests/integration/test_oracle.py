"""The real commands against ``tests/oracle.py``: every instance of every task, ranked one by one from raw files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import oracle
from tests.commands import succeed, succeed_in_turn
from tests.integration.conftest import prepare_tiny

TASKS = ("few-shot", "zero-shot", "joint", "next-item", "validation")
PROTOCOLS = ("full", "sampled-99")
SHAPE = (
    *("--model.dim", 16, "--sasrec.layers", 2, "--sasrec.heads", 4, "--model.max_length", 7),
    *("--sasrec.ffn_multiple", 2, "--model.dropout", 0.0),
)
TRAIN = (
    *("--prompt.tokens", 2, "--prompt.hidden", 12, "--profiles.attribute_dim", 8),
    *("--train.global_batch_size", 32, "--train.epochs", 2, "--train.lr", 1e-2, "--softmax.uniform_negatives", 32),
)
DAY = 86_400


@dataclasses.dataclass(frozen=True)
class World:
    interactions: Path
    users: Path
    data: Path
    runs: dict[str, Path]


@pytest.fixture(scope="module")
def world(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Clicks that tie, as times are cut to two days; histories longer than the model's; both kinds of positions."""
    folder = tmp_path_factory.mktemp("oracle")
    log = pq.read_table(raw / "interactions.parquet").to_pandas()
    log["timestamp"] = log["timestamp"] // (2 * DAY) * 2 * DAY
    assert log.duplicated(["user_id", "timestamp"]).mean() > 0.3
    pq.write_table(pa.Table.from_pandas(log.sample(frac=1, random_state=0)), folder / "interactions.parquet")
    (folder / "users.parquet").symlink_to(raw / "users.parquet")
    data = prepare_tiny(folder, folder / "data", seed=0)
    runs = {name: folder / name for name in ("pre-train", "last", "ppr-full", "fine-tune")}
    succeed("pretrain", "--data", data, "--run-dir", runs["pre-train"], *SHAPE, *TRAIN, "--sasrec.positions", "first")
    succeed("pretrain", "--data", data, "--run-dir", runs["last"], *SHAPE, *TRAIN, "--sasrec.positions", "last")
    for method, init in {"ppr-full": "pre-train", "fine-tune": "last"}.items():
        flags = ("--data", data, "--init", runs[init], "--method", method, "--run-dir", runs[method])
        succeed("tune", *flags, *TRAIN)
    assert oracle.read_model(runs["fine-tune"]).settings["positions"] == "last"  # tuning goes on as pre-training did
    return World(folder / "interactions.parquet", folder / "users.parquet", data, runs)


@pytest.mark.parametrize("run", ["pre-train", "ppr-full", "fine-tune"])
def test_every_rank_is_the_oracles(run: str, world: World, tmp_path: Path) -> None:
    asked = {tmp_path / f"{task}-{protocol}": (task, protocol) for task in TASKS for protocol in PROTOCOLS}
    flags = ("--run-dir", world.runs[run], "--progress", "false")
    succeed_in_turn(
        "evaluate", *((*flags, "--task", t, "--protocol", p, "--predictions", out) for out, (t, p) in asked.items())
    )
    assert sum(compare(world, run, *what, out) for out, what in asked.items()) > 500


def compare(world: World, run: str, task: str, protocol: str, predictions: Path) -> int:
    want = oracle.evaluate(world.runs[run], world.data, world.interactions, world.users, task, protocol)
    rows = pq.read_table(predictions).to_pylist()
    found = {(row["user_id"], row["position"]): row for row in rows}
    assert len(rows) == len(found)
    assert found.keys() == want.keys()
    decided = {key for key, ranked in want.items() if ranked.margin > 1e-5}
    assert len(decided) > 0.98 * len(want)
    for key, ranked in want.items():
        row = found[key]
        assert (row["item_id"], row["candidates"]) == (ranked.item, ranked.candidates), key
        assert row["rank"] == ranked.rank or key not in decided, (key, row["rank"], ranked)
    return len(decided)
