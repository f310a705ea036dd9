"""What a run logs, read back: metrics.jsonl, an offline W&B run, TensorBoard; the dashboard shows what is there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ppr_dist import dashboard
from ppr_dist.errors import UserError
from ppr_dist.tracking.machine import VARIABLES
from ppr_dist.tracking.panels import SECTIONS
from ppr_dist.tracking.part_names import PARTS, REST, key
from tests import wandb_log
from tests.commands import run_command, succeed
from tests.integration.conftest import TINY

PLANTED = "planted-s3cr3t"
FLAGS = (
    *(*TINY, "--train.epochs", 5, "--train.eval_every_epochs", 2, "--train.log_every", 3, "--logging.parts_every", 4),
    *("--train.checkpoint_every", 7, "--logging.wandb", "true", "--logging.tensorboard", "true"),
    *("--train.objectives", "softmax", "bpr", "--logging.experiment", "lr-sweep", "--logging.wandb_project", "watched"),
)


@pytest.fixture(scope="module")
def run(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, with a secret in their environment."""
    run = tmp_path_factory.mktemp("tracking") / "run"
    variables = {"AWS_SECRET_ACCESS_KEY": PLANTED, "SLURM_JOB_ID": "4711", "SLURM_JWT": PLANTED}
    words = ("--data", catalogue, "--run-dir", run, *FLAGS)
    done = run_command("pretrain", *words, world_size=2, variables=variables, timeout=120)
    assert done.codes == [0, 0], done.err
    return run


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_every_panel_shows_what_an_offline_run_logged(run: Path) -> None:
    logged = {name for step in wandb_log.history(run) for name in step}
    for panels in SECTIONS.values():
        for panel in panels:
            there = panel.found(logged)
            assert len(there) == (2 if panel.pattern else len(panel.keys)), panel


def test_the_dashboard_has_the_panels() -> None:
    view = dashboard.workspace(dashboard.Arguments(entity="me", project="watched"))._to_model()
    drawn = [panel.config for section in view.spec.section.panel_bank_config.sections for panel in section.panels]
    shown = [(list(panel.keys), panel.pattern) for panels in SECTIONS.values() for panel in panels]
    assert [(config.metrics or [], config.metric_regex) for config in drawn] == shown
    (runs,) = view.spec.section.run_sets
    assert [(key.section, key.name) for key in runs.grouping] == [("run", "group")]


def test_without_a_key_the_dashboard_is_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="W&B did not take the dashboard: No API key"):
        dashboard.main(["--entity", "me"])
    dashboard.main(["--entity", "me", "--show"])
    assert "  Users (users/s): users_per_s\n" in capsys.readouterr().out


def test_all_three_logs_hold_the_same(run: Path) -> None:
    mine: dict[int, dict[str, Any]] = {}
    for line in lines(run):
        mine.setdefault(line.pop("step"), {}).update(line)
    theirs = {step["_step"]: {k: v for k, v in step.items() if k[0] != "_"} for step in wandb_log.history(run)}
    assert theirs == mine
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    numbers = {
        name: {step: values[name] for step, values in mine.items() if isinstance(values.get(name), int | float)}
        for name in events.Tags()["scalars"]
    }
    assert {"loss", "rank/1/tokens_per_s", "validation_ndcg@10", key("look-up")} <= set(numbers)
    for name, values in numbers.items():
        assert {e.step: e.value for e in events.Scalars(name)} == pytest.approx(
            {step: value for step, value in values.items() if not isinstance(value, bool)}
        )


def test_an_evaluation_is_told_where_the_run_was(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, copy := tmp_path / "run")
    shutil.rmtree(copy / "wandb")
    asked = ("--task", "next-item", "--metrics", "hit@10", "auc", "--progress", "false")
    succeed("evaluate", "--run-dir", copy, *asked)
    succeed("evaluate", "--run-dir", copy, *asked, "--baseline", "popularity")
    found, popular = (json.loads(line) for line in (copy / "evaluations.jsonl").read_text().splitlines())
    events = EventAccumulator(str(copy / "tensorboard"))
    events.Reload()
    (event,) = events.Scalars("evaluation/next-item/sampled-99/hit@10")
    assert (event.step, event.value) == (found["step"], pytest.approx(found["hit@10"]))
    (event,) = events.Scalars("evaluation/next-item/sampled-99/popularity/auc")
    assert event.value == pytest.approx(popular["auc"])
    assert len(events.Scalars("loss")) > 1  # what was there stays
    first, second = sorted((copy / "wandb").glob("offline-run-*"))
    shutil.rmtree(second)
    assert first.name.endswith((run / "wandb-id").read_text().strip())
    assert wandb_log.summary(copy)["evaluation/next-item/sampled-99/auc"] == found["auc"]


def test_figures_fit_one_another(run: Path) -> None:
    steps = [line for line in lines(run) if "loss" in line]
    for line in steps:
        for what in ("users", "targets", "tokens"):
            ranks = sum(line[f"rank/{rank}/{what}_per_s"] for rank in (0, 1))
            assert line[f"{what}_per_s"] == pytest.approx(ranks)
        assert 0 < line["real_slots_share"] <= 1
        assert 0 < line["distinct_ids_share"] <= 1
        assert 1 <= line["busiest_rank_over_mean"] <= 2
        assert line["loss"] == pytest.approx(line["loss/softmax"] + line["loss/bpr"])
        assert line["grad_norm"] > 0
        assert 0 < line["host_gb"] <= line["peak_host_gb"]
        assert line["mfu"] is None
        assert line["table_lr"] == pytest.approx(0.05 / 1e-2 * line["lr"])
    with_parts = [line for line in steps if key(REST) in line]
    # The 10th step, and each 4th from there.
    due = range(10, steps[-1]["step"] + 1, 4)
    reports = [line["step"] for line in steps]
    assert [line["step"] for line in with_parts] == sorted({min(r for r in reports if r >= step) for step in due})
    for line in with_parts:
        parts = [line[key(name)] for name in PARTS]
        assert all(value >= 0 for value in parts)
        assert sum(value > 0 for value in parts) == len(PARTS)
        assert 0 <= line[key(REST)] < 0.5 * sum(parts)
    assert any("checkpoint_s" in line for line in steps)
    assert any("validation_s" in line for line in steps)


def test_only_what_is_whitelisted_of_the_environment_is_told(run: Path) -> None:
    told = json.loads((run / "environment.json").read_text())
    assert set(told["variables"]) <= set(VARIABLES)
    assert told["variables"]["SLURM_JOB_ID"] == "4711"
    assert {"python", "torch", "torchrec", "deepspeed"} <= set(told["versions"])
    sent = [path for path in run.rglob("*") if path.is_file() and "/checkpoints/" not in str(path)]
    assert any(path.suffix == ".wandb" for path in sent)
    for path in sent:
        assert PLANTED.encode() not in path.read_bytes(), path
    uploaded = b"".join(record.SerializeToString() for record in wandb_log.records(run))
    for private in (str(Path.cwd()), "--run-dir", "git@", "numpy=="):
        assert private.encode() not in uploaded, private
    assert wandb_log.started(run).host == "not-told"


def test_wandb_is_told_the_resolved_config_and_the_plan(run: Path) -> None:
    config = wandb_log.config(run)
    assert config["train"]["global_batch_size"] == 32
    assert config["sasrec"]["layers"] == 1
    assert "gru4rec" not in config
    assert [table["name"] for table in config["plan"]["tables"]] == ["item"]
    assert config["run"]["stage"] == "pretrain"
    assert config["environment"] == json.loads((run / "environment.json").read_text())
    started = wandb_log.started(run)
    assert (started.project, started.run_group) == ("watched", "lr-sweep")
    assert started.run_id == (run / "wandb-id").read_text().strip()
    assert re.fullmatch("[0-9a-f]{8}", started.run_id)
