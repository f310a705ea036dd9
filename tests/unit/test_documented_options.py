"""What the documents call an option is one: keys of the configuration's sections, and the flags of commands."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ppr_dist import (
    convert,
    dashboard,
    encode_texts,
    encode_users,
    evaluate,
    plan,
    prepare,
    pretrain,
    read_config,
    recommend,
    report,
    tune,
    verify,
)
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.synthetic.catalogue import SyntheticConfig
from ppr_dist.data.synthetic.fractal_base import FractalConfig
from ppr_dist.p5 import evaluate as p5_evaluate
from ppr_dist.p5 import prepare as p5_prepare
from tests.unit.test_links import DOCUMENTS, name

SECTIONS = {section: {f.name for f in dataclasses.fields(of)} for section, of in read_config.sections().items()}
del SECTIONS["labels"]  # ``prepare --labels.NAME`` has names of the user's choice
COMMANDS = [
    module.Arguments
    for module in (
        *(convert, encode_texts, prepare, pretrain, tune, evaluate, recommend, encode_users, plan, report),
        *(dashboard, verify),
    )
] + [p5_prepare.Arguments, p5_evaluate.Arguments]
FLAGS = {
    *("config", "print-config", "help"),
    *(
        field.name.removesuffix("_").replace("_", "-")
        for arguments in (*COMMANDS, PrepareConfig, SyntheticConfig, FractalConfig)
        for field in dataclasses.fields(arguments)
    ),
    *("standalone", "nnodes", "nproc-per-node", "rdzv-backend", "rdzv-endpoint", "rdzv-id"),  # torchrun's
    *("max-restarts", "log-dir", "tee", "shutdown-timeout", "signals-to-handle"),
    *("nodes", "gpus-per-node", "time", "partition", "requeue", "signal", "array"),  # sbatch's
    "build-arg",  # podman's
    "logdir",  # TensorBoard's
    *("no-deps", "strict", "log", "work"),  # of pip, mypy and the benchmarks
    *(
        "quick",
        "trials",
        "seeds",
        "folds",
        "nested",
        "methods",
        "epochs",
    ),  # of benchmarks.paper and benchmarks.transfer
}
# Changes name what was there before, and results what was typed then.
SPEAKING = [file for file in DOCUMENTS if file.parent.name != "results" and file.name != "CHANGELOG.md"]


def unknown(text: str) -> list[str]:
    keys = re.findall(r"(?<![\w./])(?:--)?([a-z_]+)\.([a-z_]+)(?![\w./(])", text)
    flags = re.findall(r"(?<![\w-])--([a-z][\w-]*)(?![\w.-])", text)
    return [
        *(f"{section}.{key}" for section, key in keys if section in SECTIONS and key not in SECTIONS[section]),
        *(f"--{flag}" for flag in flags if flag not in FLAGS),
    ]


@pytest.mark.parametrize("file", SPEAKING, ids=name)
def test_options_that_documents_name_are_there(file: Path) -> None:
    assert unknown(file.read_text()) == []


def test_an_option_that_is_not_there_would_be_seen() -> None:
    assert unknown("`train.lr`, `--train.lr 1e-3`, `--run-dir R`, `ppr_dist/objectives/softmax.py`") == []
    assert unknown("`train.batch` or --loss.kind bpr, --sharding FILE") == ["train.batch", "loss.kind", "--sharding"]
