"""Every file under configs/ is one that the commands take."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest

from ppr_dist import read_config
from ppr_dist.config import Config
from ppr_dist.errors import UserError
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.model.item_encoders import ITEM_ENCODERS
from ppr_dist.objectives import OBJECTIVES
from ppr_dist.parallel.cluster import load_cluster
from ppr_dist.read_config import model_sections, section

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
TUNING = [file for file in FILES if "tune" in file.stem or file.stem.startswith("ppr")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """What stands beside the sections on a command line; no file in configs/ sets it."""

    name: Literal["set"] = "set"


def read(file: Path, *argv: str) -> Config:
    own, config = read_config.parse("ppr_dist.test", ["--config", str(file), *argv], Arguments)
    assert own == Arguments()
    return config


NOTHING_SAID = read_config.parse("ppr_dist.test", [], Arguments)[1]


def name(file: Path) -> str:
    return str(file.relative_to(ROOT / "configs"))


def test_there_are_configurations_of_both_stages() -> None:
    assert {name(file) for file in FILES} >= {"demo/pretrain.yaml", "paper/ppr-light.yaml", "cluster/tune.yaml"}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_it_parses_and_says_something(file: Path) -> None:
    assert read(file) != NOTHING_SAID


def test_cluster_files_are_there_wherever_one_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    named = [cluster for file in FILES if (cluster := read(file).tables.cluster)]
    assert named
    assert all(load_cluster(cluster).world_size > 1 for cluster in named)


@pytest.mark.parametrize("file", TUNING, ids=name)
def test_tuning_leaves_the_shape_of_the_model_to_the_pretrained_run(file: Path) -> None:
    config = read(file)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=Config().model.dropout))
    for each in model_sections(config):
        assert section(config, each) == section(Config(), each)


def test_the_papers_settings() -> None:
    """PPR: d 64, batch 256, Adam with lr 1e-5 for fine-tune and full and 1e-4 otherwise, BPR, λ 0.1, γ 0.2."""
    rates = {"pretrain": 1e-4, "ppr-light": 1e-4, "ppr-full": 1e-5, "fine-tune": 1e-5}
    for name, rate in rates.items():
        config = read(ROOT / "configs" / "paper" / f"{name}.yaml")
        assert (config.model.dim, config.train.global_batch_size) == (64, 256)
        assert (config.tables.optimizer, config.tables.lr, config.train.lr) == ("adam", rate, rate)
        assert (config.train.objectives, section(config, "bpr").uniform_negatives) == (["bpr"], 1)
        contrastive = section(config, "contrastive")
        assert contrastive.weight == 0.1
        assert (contrastive.profile_dropout, contrastive.interaction_dropout) == (0.2, 0.2)


def test_a_key_that_no_section_has_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train:\n  shiny: 1\n")
    with pytest.raises(UserError, match="shiny"):
        read(file)


def test_a_part_that_there_is_not_is_refused_in_one_line() -> None:
    rooms = {"train.objectives": OBJECTIVES, "model.backbone": BACKBONES, "model.item_encoders": ITEM_ENCODERS}
    for option, room in rooms.items():
        with pytest.raises(UserError, match=f"^{option} 'hinge': there is none; choose from {', '.join(room)}$"):
            read_config.parse("ppr_dist.test", [f"--{option}", "hinge"], Arguments)


@pytest.mark.parametrize("objectives", [[], ["bpr", "softmax", "bpr"]])
def test_objectives_are_named_each_once_and_at_least_one(objectives: list[str]) -> None:
    with pytest.raises(UserError, match=r"train.objectives .*: name at least one, and each once"):
        read_config.parse("ppr_dist.test", [f"--train.objectives={json.dumps(objectives)}"], Arguments)


def test_a_path_in_a_file_is_seen_from_there_and_on_the_command_line_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "c.yaml"
    file.write_text("tables:\n  cluster: ../mine.yaml\n")
    monkeypatch.chdir(tmp_path)
    assert read(Path("sub/c.yaml")).tables.cluster == tmp_path / "mine.yaml"
    assert read(Path("sub/c.yaml"), "--tables.cluster", "other.yaml").tables.cluster == tmp_path / "other.yaml"


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
    for reads in (read, read_config.read):
        with pytest.raises(UserError, match=f"^{file}: .*{said}") as caught:
            reads(file)
        assert str(caught.value).count(str(file)) == 1
        assert "unicode string" not in str(caught.value)
