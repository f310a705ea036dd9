"""A tiny catalogue, a pre-trained run and a tuned one, made once by the real commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.synthetic.catalogue import SyntheticConfig, generate
from tests.commands import succeed

PREPARE = {"users_per_member": 16, "members_per_shard": 2, "buckets": {"age": 5}}
"""How ``catalogue`` was prepared; another seed numbers its items otherwise."""
TINY = (
    *("--model.dim", 16, "--sasrec.layers", 1, "--model.max_length", 12),
    *("--prompt.hidden", 16, "--profiles.attribute_dim", 16),
    *("--train.global_batch_size", 32, "--train.epochs", 1, "--train.lr", 1e-2, "--softmax.uniform_negatives", 32),
)
"""Flags of a model that trains in a blink."""


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with interactions.parquet and users.parquet: 240 users, 400 items."""
    folder = tmp_path_factory.mktemp("raw") / "raw"
    generate(SyntheticConfig(users=240, items=400, max_clicks=30, topics=8, cold_fraction=0.5), folder)
    return folder


@pytest.fixture(scope="session")
def catalogue(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared data."""
    return prepare_tiny(raw, tmp_path_factory.mktemp("catalogue") / "data", seed=0)


@pytest.fixture(scope="session")
def pretrained(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained run."""
    run = tmp_path_factory.mktemp("pretrained") / "run"
    succeed("pretrain", "--data", catalogue, "--run-dir", run, *TINY)
    return run


@pytest.fixture(scope="session")
def tuned(catalogue: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run tuned from ``pretrained`` by ppr-light."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    succeed("tune", "--data", catalogue, "--init", pretrained, "--method", "ppr-light", "--run-dir", run, *TINY)
    return run


def prepare_tiny(raw: Path, out: Path, seed: int) -> Path:
    prepare(str(raw / "interactions.parquet"), str(raw / "users.parquet"), out, PrepareConfig(seed=seed, **PREPARE))  # type: ignore[arg-type]
    return out
