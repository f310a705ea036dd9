"""Figures of what ranks counted, against numbers made by hand."""

from __future__ import annotations

import pytest

from ppr_dist.tracking.figures import RANKS_SHOWN, figures

COUNTED = {
    "users": [30.0, 10.0],
    "targets": [60.0, 20.0],
    "tokens": [90.0, 30.0],
    "slots": [100.0, 60.0],
    "asked": [200.0, 100.0],
    "distinct": [50.0, 25.0],
    "rows": [45.0, 15.0],
    "waited": [0.2, 0.6],
    "host": [1e9, 3e9],
    "peak_host": [2e9, 3e9],
}


def test_figures_are_those_of_all_ranks_and_of_each() -> None:
    found = figures(COUNTED, steps=4, seconds=2.0)
    assert (found["users_per_s"], found["targets_per_s"], found["tokens_per_s"]) == (20, 40, 60)
    assert (found["rank/0/users_per_s"], found["rank/1/tokens_per_s"]) == (15, 15)
    assert found["step_ms"] == 500
    assert found["data_wait_share"] == pytest.approx(0.2)
    assert (found["rank/0/data_wait_share"], found["rank/1/data_wait_share"]) == pytest.approx((0.1, 0.3))
    assert found["real_slots_share"] == 0.75
    assert found["distinct_ids_share"] == 0.25
    assert found["busiest_rank_over_mean"] == 1.5
    assert (found["host_gb"], found["peak_host_gb"], found["rank/0/host_gb"]) == (3, 3, 1)
    assert found["gpu_gb"] is None
    on_gpu = figures(COUNTED | {"gpu": [1e9, 2e9], "peak_gpu": [3e9, 4e9]}, steps=4, seconds=2.0)
    assert (on_gpu["gpu_gb"], on_gpu["peak_gpu_gb"], on_gpu["rank/0/peak_gpu_gb"]) == (2, 4, 3)


def test_of_very_many_ranks_the_first_are_shown() -> None:
    many = {name: [values[0]] * (RANKS_SHOWN + 1) for name, values in COUNTED.items()}
    found = figures(many, steps=1, seconds=1.0)
    assert f"rank/{RANKS_SHOWN - 1}/users_per_s" in found
    assert f"rank/{RANKS_SHOWN}/users_per_s" not in found
    assert found["users_per_s"] == 30 * (RANKS_SHOWN + 1)
