"""The launcher leaves a module's own arguments alone."""

from __future__ import annotations

import pytest
from torch.distributed import run

from ppr_dist.torchrun import separated


@pytest.mark.parametrize(
    "ours",
    [
        ["--nproc-per-node", "2", "-m"],
        ["--nproc-per-node=2", "--nnodes=1:4", "--module"],
        ["--standalone", "--nnodes", "4", "--rdzv-endpoint", "host:1", "-m"],
    ],
)
def test_run_is_not_taken_for_an_abbreviation(ours: list[str]) -> None:
    theirs = ["ppr_dist.pretrain", "--config", "c.yaml", "--run", "r", "--train.lr", "1e-3"]
    parser = run.get_args_parser()
    parsed = parser.parse_args(separated(parser, ours + theirs))
    assert parsed.module
    assert [parsed.training_script, *parsed.training_script_args] == theirs


def test_a_separator_already_there_and_no_script() -> None:
    parser = run.get_args_parser()
    argv = ["-m", "--", "ppr_dist.pretrain", "--run", "r"]
    assert separated(parser, argv) == argv
    assert separated(parser, ["--help"]) == ["--help"]
