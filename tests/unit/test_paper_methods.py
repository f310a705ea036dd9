"""Rows of data that name what there is, and a search that treats methods alike."""

from __future__ import annotations

import pytest

from benchmarks.jobs import merged
from benchmarks.paper import published, tables
from benchmarks.paper.methods import METHODS, PRETRAINED, RANGES, trial
from ppr_dist.library import words
from ppr_dist.read_config import parse_tuning
from ppr_dist.tune import Arguments
from ppr_dist.tuning import TUNING_METHODS


@pytest.mark.parametrize("name", METHODS)
def test_a_row_is_read_by_tune(name: str) -> None:
    method = METHODS[name]
    if method.tune is None:
        return
    assert method.tune in TUNING_METHODS
    options = merged(trial(method, 3), method.options)
    asked = words({"data": "d", "init": "i", "run_dir": "r", "method": method.tune, **options})
    _, config, _ = parse_tuning("ppr_dist.tune", asked, Arguments)
    assert config.train.lr == options["train"]["lr"]


def test_methods_share_trials_and_each_value_comes_as_often() -> None:
    light, fine = (METHODS[name] for name in ("ppr-light", "fine-tune"))
    for number in range(12):
        assert trial(light, number)["train"]["lr"] == trial(fine, number)["train"]["lr"]
        assert "pretrained_lr" not in trial(light, number)["train"]
        assert "contrastive" not in trial(fine, number)
    values = RANGES["pretrained"][1]
    walked = [trial(fine, number)["train"]["pretrained_lr"] / 1e-3 for number in range(2 * len(values))]
    assert sorted(map(round_to_4, walked)) == sorted(2 * list(map(round_to_4, values)))
    assert walked[0] == pytest.approx(values[0])


def round_to_4(x: float) -> float:
    return round(x, 4)


def test_tables_name_methods_that_there_are() -> None:
    assert {*tables.RIVALS, *tables.TUNED, *tables.CONTROLS} <= set(METHODS)
    assert {method.pretrained for method in METHODS.values()} - {None} <= set(PRETRAINED)


def test_the_paper_s_gains() -> None:
    # PAPER: few-shot, CIKM, NDCG@10: .5290 against .5255; joint: .4802 against .4639.
    assert published.gains("III", "ppr-full", "ndcg@10")["CIKM"] == pytest.approx(0.5290 / 0.5255 - 1)
    assert published.gains("V", "ppr-full", "ndcg@10")["CIKM"] == pytest.approx(0.4802 / 0.4639 - 1)
