"""What ``evaluate`` writes: one row per instance under raw ids, in the order of (user index, position)."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ppr_dist.data.manifest import load_manifest
from tests.click_logs import read_split
from tests.commands import succeed


@pytest.mark.parametrize(("task", "split"), [("joint", "tune-test"), ("next-item", "pretrain")])
def test_predictions_are_the_instances_in_order_on_any_number_of_ranks(
    tmp_path: Path, catalogue: Path, tuned: Path, task: str, split: str
) -> None:
    words = ("--run-dir", tuned, "--task", task, "--protocol", "full", "--progress", "false", "--batch", 7)
    found, said = {}, {}
    for world_size in (1, 2):
        out = tmp_path / f"{world_size}.parquet"
        done = succeed("evaluate", *words, "--predictions", out, world_size=world_size)
        found[world_size], said[world_size] = pd.read_parquet(out), json.loads(done.out[0].splitlines()[-1])
    pd.testing.assert_frame_equal(found[1], found[2])
    assert said[1]["passport"] == said[2]["passport"]
    numbers = [{name: value for name, value in said[n].items() if not isinstance(value, str | dict)} for n in (1, 2)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-12)

    users = pd.read_parquet(catalogue / "users.parquet").user_id
    items = pd.read_parquet(catalogue / "items.parquet").item_id
    want, seen = [], 0
    for user, clicks in read_split(catalogue, load_manifest(catalogue), split)[["user", "items"]].itertuples(
        index=False
    ):
        for position in range(len(clicks)) if task == "joint" else [len(clicks) - 1]:
            want.append((users[user], position, items[clicks[position]]))
            seen += clicks[position] in clicks[:position]
    assert found[1].columns.tolist() == ["user_id", "position", "item_id", "rank", "candidates"]
    rows = found[1][["user_id", "position", "item_id"]]
    assert [tuple(row) for row in rows.itertuples(index=False)] == want
    assert found[1]["rank"].between(1, found[1].candidates).all()
    assert (said[1]["instances"], said[1]["seen_targets"], said[1]["left_out"]) == (len(want), seen, 0)
    assert said[1]["hit@10"] == pytest.approx((found[1]["rank"] <= 10).mean())

    done = succeed("evaluate", *words, "--leave-out-seen", "--predictions", tmp_path / "1.parquet")  # replaced
    without = json.loads(done.out[0].splitlines()[-1])
    assert (without["instances"], without["left_out"]) == (len(want) - seen, seen)
    assert len(pd.read_parquet(tmp_path / "1.parquet")) == len(want) - seen
