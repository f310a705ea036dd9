"""What each tuning method trains and what it freezes, read from the checkpoints of real commands on two ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import succeed
from tests.integration.conftest import TINY
from tests.oracle import item_numbers, read_profiles, read_splits, tensors

ITEM = "tables.items.embeddings.item.weight"


def of(state: dict[str, np.ndarray], *parts: str) -> dict[str, np.ndarray]:
    return {name: values for name, values in state.items() if name.startswith(parts)}


@pytest.mark.parametrize("method", ["ppr-light", "ppr-full", "fine-tune"])
def test_what_is_trainable(method: str, catalogue: Path, pretrained: Path, tmp_path: Path) -> None:
    flags = ("--data", catalogue, "--init", pretrained, "--method", method, *TINY)
    # The start: a first step of (almost) no length. lr must be above 0.
    still = ("--train.max_steps", 1, "--train.lr", 1e-30, "--tables.lr", 0.0)
    succeed("tune", *flags, "--run-dir", tmp_path / "start", *still, world_size=2)
    succeed("tune", *flags, "--run-dir", tmp_path / "run", "--train.max_steps", 4, world_size=2)
    before, start, after = (tensors(run) for run in (pretrained, tmp_path / "start", tmp_path / "run"))

    carried = {**of(before, "dense.parameter."), ITEM: before[ITEM]}
    assert all(name.startswith("dense.parameter.backbone.") for name in of(carried, "dense."))
    assert "dense.parameter.backbone.positions" in carried
    assert len(carried) > 10
    for name, values in carried.items():
        np.testing.assert_array_equal(start[name], values, err_msg=f"{name} did not start as pre-trained")
        moved = not np.array_equal(after[name], values)
        assert moved == (method != "ppr-light"), name

    for output, values in of(start, "dense.parameter.profile_encoder.second").items():
        assert np.abs(values).max() < 1e-20, f"{output} adds to the pre-trained model from the beginning"
    for part in ("prompt", "profile_encoder"):
        dense, tables = of(after, f"dense.parameter.{part}."), of(after, f"tables.profiles.embeddings.{part}:")
        assert bool(dense) == bool(tables) == (part == "profile_encoder" or method != "fine-tune")
        for name, values in {**dense, **tables}.items():
            assert np.abs(values - start[name]).max() > 1e-5, f"{name} was not trained"
    # Only what is trainable has moments.
    with_moments = {name.removeprefix("dense.exp_avg.") for name in of(after, "dense.exp_avg.")}
    assert bool({n for n in with_moments if n.startswith("backbone")}) == (method != "ppr-light")
    assert np.isfinite(np.concatenate([v.ravel() for v in of(after, "dense", "tables.").values()])).all()


@pytest.mark.exhaustive
def test_fine_tuning_goes_on_from_a_fine_tuned_run_with_another_task(
    catalogue: Path, pretrained: Path, tmp_path: Path
) -> None:
    flags = ("--data", catalogue, "--method", "fine-tune", *TINY)
    one, two = tmp_path / "one", tmp_path / "two"
    succeed("tune", *flags, "--init", pretrained, "--run-dir", one, "--train.max_steps", 2)
    still = ("--train.max_steps", 1, "--train.lr", 1e-30, "--tables.lr", 0.0, "--train.objectives", "attribute")
    succeed("tune", *flags, "--init", one, "--run-dir", two, *still)
    before, first, second = (of(tensors(run), "dense.parameter.backbone.", ITEM) for run in (pretrained, one, two))
    assert first.keys() == second.keys() == before.keys()
    for name, values in first.items():
        assert not np.array_equal(values, before[name]), f"{name} was not trained by the first task"
        np.testing.assert_array_equal(second[name], values, err_msg=f"{name} did not start from the first task's")


def test_prompts_begin_as_they_are_asked_to(raw: Path, catalogue: Path, pretrained: Path, tmp_path: Path) -> None:
    flags = ("--data", catalogue, "--init", pretrained, "--method", "ppr-light", "--run-dir", tmp_path / "run", *TINY)
    asked = ("--prompt.tokens", 8, "--prompt.each_layer", "true", "--prompt.out_std", 0.0)
    still = ("--train.max_steps", 1, "--train.lr", 1e-30, "--tables.lr", 0.0)
    succeed("tune", *flags, *asked, *still, "--prompt.begin", "item-means", world_size=2)
    state, table = tensors(tmp_path / "run"), tensors(pretrained)[ITEM]
    assert np.abs(state["dense.parameter.prompt.second.weight"]).max() < 1e-20

    splits = read_splits(raw / "interactions.parquet")
    numbers, profiles = item_numbers(splits), read_profiles(raw / "users.parquet", catalogue)
    attributes = [
        attribute["name"] for attribute in json.loads((catalogue / "manifest.json").read_text())["attributes"]
    ]
    for column, name in enumerate(attributes):
        of_value: dict[int, list[int]] = {}
        for user, clicked in splits["tune-train"].items():
            of_value.setdefault(profiles[user][column], []).extend(numbers[item] for item in clicked)
        found = state[f"tables.profiles.embeddings.prompt:{name}.weight"]
        for value, clicked in of_value.items():
            np.testing.assert_allclose(found[value], table[clicked].mean(0), rtol=1e-5, atol=1e-7, err_msg=name)
