"""The trials of benchmarks/next_item.yaml: hours of a queue should not end at one that pretrain does not take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.next_item import PREPARE, Study, Trial, read_studies
from ppr_dist import read_config

STUDIES = read_studies()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """What stands beside the sections on a command line."""

    name: Literal["set"] = "set"


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_trials_are_options_of_pretrain_and_differ(study: Study) -> None:
    assert study.data in PREPARE
    assert len(study.keep) >= len(study.epochs) - 1
    read = [
        read_config.parse("ppr_dist.test", Trial(study, name, Path()).options(7), Arguments)[1] for name in study.trials
    ]
    assert all(config.train.epochs == 7 for config in read)
    assert all(config not in read[:n] for n, config in enumerate(read)), "two trials are the same"
    refit = Trial(study, next(iter(study.trials)), Path(), refit=True)
    assert read_config.parse("ppr_dist.test", refit.options(7), Arguments)[1].train.refit


def test_a_name_means_the_same_settings_in_all_studies_of_a_log() -> None:
    """They share its folder."""
    meant: dict[tuple[str, str], list[str]] = {}
    for study in STUDIES.values():
        for name in study.trials:
            options = Trial(study, name, Path()).options(1)
            assert meant.setdefault((study.data, name), options) == options
