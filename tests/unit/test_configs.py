"""Every file under configs/ is one that the commands take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from ppr_dist import config as configuration
from ppr_dist.config import Config, parse
from ppr_dist.errors import UserError
from ppr_dist.parallel.cluster import load_cluster

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
TUNING = [file for file in FILES if file.stem != "pretrain"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """What stands beside the sections on a command line; no file in configs/ sets it."""

    run: Literal["set"] = "set"


def read(file: Path, *argv: str) -> Config:
    own, config = parse("ppr_dist.test", ["--config", str(file), *argv], Arguments)
    assert own == Arguments()
    return config


def name(file: Path) -> str:
    return str(file.relative_to(ROOT / "configs"))


def test_there_are_configurations_of_both_jobs() -> None:
    assert {name(file) for file in FILES} >= {"demo/pretrain.yaml", "paper/ppr-light.yaml", "cluster/tune.yaml"}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_it_parses_and_says_something(file: Path) -> None:
    assert read(file) != Config()


def test_cluster_files_are_there_wherever_one_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    named = [sharding for file in FILES if (sharding := read(file).tables.sharding)]
    assert named
    assert all(load_cluster(sharding).world_size > 1 for sharding in named)


@pytest.mark.parametrize("file", TUNING, ids=name)
def test_tuning_leaves_the_shape_of_the_model_to_the_pretrained_run(file: Path) -> None:
    model = read(file).model
    assert dataclasses.replace(model, dropout=0.5) == dataclasses.replace(Config().model, dropout=0.5)


def test_the_papers_settings() -> None:
    """PPR: d 64, batch 256, Adam with lr 1e-5 for fine-tune and full and 1e-4 otherwise, BPR, λ 0.1, γ 0.2."""
    rates = {"pretrain": 1e-4, "ppr-light": 1e-4, "ppr-full": 1e-5, "fine-tune": 1e-5}
    for job, rate in rates.items():
        config = read(ROOT / "configs" / "paper" / f"{job}.yaml")
        assert (config.model.dim, config.train.global_batch_size) == (64, 256)
        assert (config.tables.optimizer, config.tables.lr, config.train.lr) == ("adam", rate, rate)
        assert (config.loss.kind, config.loss.uniform_negatives) == ("bpr", 1)
        masks = (config.loss.profile_dropout, config.loss.interaction_dropout)
        assert (config.loss.contrastive_weight, *masks) == (0.1, 0.2, 0.2)


def test_a_key_that_no_section_has_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train:\n  shiny: 1\n")
    with pytest.raises(UserError, match="shiny"):
        read(file)


def test_a_path_in_a_file_is_seen_from_there_and_on_the_command_line_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "c.yaml"
    file.write_text("tables:\n  sharding: ../mine.yaml\n")
    monkeypatch.chdir(tmp_path)
    assert read(Path("sub/c.yaml")).tables.sharding == tmp_path / "mine.yaml"
    assert read(Path("sub/c.yaml"), "--tables.cluster", "other.yaml").tables.sharding == tmp_path / "other.yaml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: [1\n", "line 2, column 1"),
        ("train:\n  lr: high\n", "train.lr.*high"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    for reads in (read, configuration.read):
        with pytest.raises(UserError, match=f"^{file}: .*{said}") as caught:
            reads(file)
        assert str(caught.value).count(str(file)) == 1
        assert "unicode string" not in str(caught.value)
