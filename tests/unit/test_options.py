"""The one way options are read: strict, documented by the fields' docstrings, hyphens or underscores."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from ppr_dist import config, options, read_config
from ppr_dist.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    out_dir: str
    """Where the apples go."""
    by_name: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many of each."""
    resume: bool = False
    """Go on."""
    places: list[Path] = dataclasses.field(default_factory=list)
    """Some places."""
    names: list[str] | str | None = None
    """Some names."""
    only: list[str] | None = None
    """Some of them."""
    kind: Literal["red", "green"] | None = None
    """Which ``apples``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trees:
    """Where apples grow.

    No part of the heading.
    """

    kinds: list[Literal["old", "young"]] = dataclasses.field(default_factory=lambda: ["old"])  # type: ignore[arg-type]
    """Which trees."""
    count: int = 0
    """How many."""


def parse(*argv: str) -> tuple[Arguments, dict[str, Any]]:
    (arguments,), sections = options.parse("x", argv, [Arguments], {"train": config.Train, "trees": Trees})
    return arguments, sections


def test_hyphens_stand_for_underscores_in_names_but_not_in_keys_of_the_users_own() -> None:
    arguments, sections = parse("--out-dir", "a-b", "--train.zero-stage=1", "--by-name.my-key", "3")
    assert arguments == Arguments(out_dir="a-b", by_name={"my-key": 3})
    assert sections["train"] == config.Train(zero_stage=1)


def test_a_bool_is_a_flag_and_a_list_is_words() -> None:
    flags = ("--out-dir", "a", "--resume", "--places", "b", "7", "--names", "c", "d", "--train.global_batch_size", "3")
    arguments, sections = parse(*flags)
    places = [Path("b"), Path("7")]
    assert arguments == Arguments(out_dir="a", resume=True, places=places, names=["c", "d"])
    assert sections["train"].global_batch_size == 3
    assert not parse("--out-dir", "a", "--resume", "false")[0].resume
    assert parse("--out-dir", "a", "--places", "b")[0].places == [Path("b")]
    assert parse("--out-dir=a", "--places=b=c", "--names=--d")[0] == Arguments(
        out_dir="a", places=[Path("b=c")], names="--d"
    )
    assert parse("--out-dir", "a", "--places", '["b", "c"]')[0].places == [Path("b"), Path("c")]
    assert parse("--out-dir", "a", "--only", "b")[0].only == ["b"]
    assert parse("--out-dir", "a", "--only=b")[0].only == ["b"]
    assert parse("--out-dir", "a", "--only", "null")[0].only is None
    assert parse("--out-dir", "a", "--names", "c,d")[0].names == "c,d"


def test_help_shows_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "Where the apples go.",
        "How many of each.",
        "The training loop",
        "Users per step, summed over ranks.",
    ):
        assert words in text


def test_help_shows_a_commands_own_options_and_then_a_group_for_each_section(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    parts = {"trees.kinds": ["old", "young"], "elsewhere": ["new"]}
    with pytest.raises(SystemExit):
        options.parse("ppr_dist.pick", ["--help"], [Arguments], {"trees": Trees}, "Pick apples.", parts)
    assert (
        capsys.readouterr().out
        == """\
usage: python -m ppr_dist.pick --out-dir TEXT [options]

Pick apples.

options:
  --config FILE               YAML file with any of these options.
  --print-config              Print all options as YAML and exit.
  --out-dir TEXT              Where the apples go. (required)
  --by-name.NAME INT          How many of each.
  --resume                    Go on.
  --places PATH ...           Some places.
  --names TEXT ...            Some names.
  --only TEXT ...             Some of them.
  --kind {red,green}          Which apples.
  -h, --help                  Show this and exit.

Where apples grow (trees):
  --trees.kinds {old,young} ...
                              Which trees. One of: old, young. (default: old)
  --trees.count INT           How many. (default: 0)
"""
    )


@pytest.mark.parametrize("command", ["pretrain", "tune", "plan"])
def test_sections_of_help_have_headings_of_their_own_words(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(f"ppr_dist.{command}").main(["--help"])
    head, *rest = capsys.readouterr().out.split("\n\n")[2:]
    assert head.startswith("options:\n  --config FILE")
    assert not re.search(r"^  --(?!attributes)\w+\.", head, re.M)
    for group in rest:
        heading, *lines = group.splitlines()
        (section,) = set(re.findall(r"^  --(\w+)\.", "\n".join(lines), re.M))
        assert re.fullmatch(rf"[A-Z].* \({section}\):", heading)
        assert "int = " not in heading  # a dataclass without docstring has its signature


def test_flags_override_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("out_dir: a\ntrain:\n  global_batch_size: 5\n  epochs: 2\n")
    arguments, sections = parse("--config", str(tmp_path / "c.yaml"), "--train.global_batch_size", "7")
    assert arguments.out_dir == "a"
    assert (sections["train"].global_batch_size, sections["train"].epochs) == (7, 2)


@pytest.mark.parametrize(
    ("argv", "pattern"),
    [
        (("--out-dir", "a", "--out", "b"), "--out"),  # no abbreviations
        (("--out-dir", "a", "--train.zero-stages", "1"), "--train.zero-stages"),
        (("--out-dir", "a", "--by-name.key", "many"), "--by-name"),
        (("--out-dir", "a", "--train.epochs", "1.5"), "train.epochs"),
        (("--out-dir", "a", "--train.epochs", "0"), "train.epochs must be above 0"),
        (("--out-dir", "a", "stray"), "stray"),
        (("--out-dir", "a", "--resume", "perhaps"), "--resume: "),
        ((), "required: --out-dir$"),
        (("--out-dir", "a", "--places"), "argument --places: expected one argument"),
        (("--out-dir", "a", "--kind", "blue"), "^--kind: expected one of red, green or null, got blue$"),
        (("--out-dir", "a", "--train.zero-stage", "7"), "^--train.zero_stage: expected one of 0, 1, 2, 3, got 7$"),
        (("--out-dir", "a", "--trees.kinds", "old", "oak"), "^--trees.kinds: expected one of old, young, got oak$"),
        (("--out-dir", "a", '--trees={"kinds": ["oak"]}'), "^--trees.kinds: expected one of old, young, got oak$"),
        (("--out-dir", "a", '--trees={"kind": ["oak"]}'), "^--trees.kind: no such option$"),
    ],
)
def test_errors_name_the_key_in_one_line(argv: tuple[str, ...], pattern: str) -> None:
    with pytest.raises(UserError, match=pattern) as refused:
        parse(*argv)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("apples: 1\n", "--apples: no such option"),
        ("apples:\n  count: 1\n", "--apples.count: no such option"),
        ("train:\n  apples: 1\n", "--train.apples: no such option"),
        ("out-dir: a\n", "out-dir: no such option; did you mean out_dir?"),
        ("train:\n  epochs: many\n", "--train.epochs: expected int, got many"),
        ("train:\n  epochs:\n", "--train.epochs: expected int, got null"),
        ("train: null\n", "train: expected the options of a section, got null"),
        ("train:\n  lr: 0.1\ntrees:\n  count: 1\ntrain:\n  epochs: 2\n", "train: there twice, again in line 5"),
        ("train:\n  lr: 0.1\n  lr: 0.2\n", "lr: there twice, again in line 3"),
    ],
)
def test_errors_of_a_file_name_the_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        parse("--out-dir", "a", "--config", str(path))
    assert str(refused.value) == f"{path}: {said}"


def test_a_runs_configuration_comes_back_and_its_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model:\n  dim: 32\n")
    assert read_config.read(tmp_path / "c.yaml").model == config.Model(dim=32)
    (tmp_path / "c.yaml").write_text("model:\n  width: 32\n")
    with pytest.raises(UserError, match=r"c\.yaml: .*width"):
        read_config.read(tmp_path / "c.yaml")
    with pytest.raises(UserError, match=r"absent\.yaml: no such file"):
        read_config.read(tmp_path / "absent.yaml")


def test_of_a_file_read_before_nothing_stays(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("model:\n  dim: 32\n  item_encoders: [id, features]\nprofiles:\n  hidden: 8\n")
    second.write_text("train:\n  lr: 0.5\n")
    one = read_config.read(first)
    read_config.read(first).model.item_encoders.append("changed")
    assert read_config.read(second) == config.Config(train=config.Train(lr=0.5), parts=read_config.read(second).parts)
    assert read_config.read(second).model.item_encoders == config.Model().item_encoders
    assert read_config.read(first) == one
    assert one.model.item_encoders == ["id", "features"]


COMMANDS = ["convert", "prepare", "pretrain", "tune", "evaluate", "recommend", "report", "plan"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_waits_for_no_heavy_import(command: str) -> None:
    heavy = ["torchrec", "fbgemm_gpu", "deepspeed", "matplotlib", "wandb"]
    if command != "convert":  # which lists its readers
        heavy += ["duckdb"]
    if command not in ("convert", "pretrain", "tune", "plan"):  # whose options are those of their parts
        heavy += ["torch", "pyarrow"]
    program = (
        f"import sys, ppr_dist.{command} as command\n"
        "try: command.main(['--help'])\n"
        f"except SystemExit: print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert done.stdout.startswith(f"usage: python -m ppr_dist.{command}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    from_: str
    """Kind."""
    raw: Path
    """What."""
    fresh: bool = False
    """Whether."""
    limit: str | None = None
    """How much."""


@pytest.mark.parametrize(
    "words",
    [
        "--from kind here --limit 4GB --fresh",
        "--fresh here --from=kind --limit=4GB",
        "here --from kind --fresh --limit 4GB",
        "--limit 4GB here --fresh true --from kind",
        "--from kind --raw here --fresh --limit 4GB",
        "--from kind --limit 4GB --fresh here",
    ],
)
def test_one_option_may_stand_without_its_name(words: str) -> None:
    (read,), _ = options.parse("x", words.split(), [Conversion], positional="raw")
    assert read == Conversion(from_="kind", raw=Path("here"), fresh=True, limit="4GB")


def test_a_second_word_without_an_option_is_refused_and_a_missing_one_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^unexpected word: there$"):
        options.parse("x", ["--from", "kind", "here", "there"], [Conversion], positional="raw")
    with pytest.raises(UserError, match=r"^the following arguments are required: --from, --raw$"):
        options.parse("x", [], [Conversion], positional="raw")
    with pytest.raises(SystemExit):
        options.parse("x", ["--help"], [Conversion], positional="raw")
    assert "usage: python -m x --from TEXT RAW [options]" in capsys.readouterr().out
