"""What holds of every task: whom it asks about what, and that its metrics do not depend on the number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppr_dist.data.manifest import load_manifest
from ppr_dist.data.stream.users import Users
from ppr_dist.errors import UserError
from ppr_dist.evaluation import evaluate
from ppr_dist.metrics import METRICS
from ppr_dist.objectives import OBJECTIVES
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.scoring import ModelScorer
from ppr_dist.tasks import TASKS
from ppr_dist.tasks.ranking import RankingTask
from tests.multirank.models import ITEMS, LABELS
from tests.ranks import run_ranks
from tests.registry.cases import Case, build
from tests.shards import random_users, select, write_data

USERS = random_users(60, ITEMS, longest=9, times=True, labels=LABELS)
SPLITS = sorted({task.split for task in TASKS.values()})
each_task = pytest.mark.parametrize("name", TASKS)


def test_the_users_differ() -> None:
    assert set(USERS.lengths) >= {0, 1, 2, 9}


@each_task
def test_it_asks_after_fewer_clicks_than_the_user_has(name: str) -> None:
    task = TASKS[name]
    if not isinstance(task, RankingTask):
        pytest.skip("asks for no click")
    instances = task.instances(USERS)
    assert len(instances.user_rows) > 0
    assert (instances.context_lengths >= 0).all()
    assert (instances.context_lengths < USERS.lengths[instances.user_rows]).all()
    pairs = list(zip(instances.user_rows.tolist(), instances.context_lengths.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    for nobody in (select(USERS, []), select(USERS, np.flatnonzero(USERS.lengths == 0).tolist())):
        assert len(task.instances(nobody).user_rows) == 0


@each_task
def test_what_it_says_of_itself_is_so(name: str) -> None:
    task = TASKS[name]
    assert task.best_metric in task.metric_names()
    if isinstance(task, RankingTask):
        assert task.protocol is None
        assert set(task.metric_names()) <= set(METRICS)


def of_each_task(context: DistributedContext, data: Path) -> dict[str, dict[str, Any] | str]:
    """What every task measures of a model that is trained for it, or the line in which it refuses to."""
    found: dict[str, dict[str, Any] | str] = {}
    for name, task in TASKS.items():
        of_task = tuple(objective for objective in OBJECTIVES if OBJECTIVES[objective].task == name)
        case = Case(objectives=of_task or Case.objectives)
        parallel = build(context, case).parallel
        parallel.engine.eval()
        try:
            found[name] = evaluate(
                ModelScorer(parallel.embeddings, parallel.engine, context.device),
                data,
                load_manifest(data),
                context,
                task=name,
                protocol="full",
                config=case.config(),
                metrics=tuple(METRICS),
                batch=17,
            )
            assert set(task.metric_names()) <= set(found[name])
        except UserError as error:
            found[name] = str(error)
    return found


def data_of(folder: Path, users: Users) -> Path:
    write_data(folder, dict.fromkeys(SPLITS, users), items=ITEMS, per_shard=8, labels=LABELS)
    shares = np.ones(ITEMS, np.float32)
    shares[::3] = 0  # items without a click to train on
    np.save(folder / "train_share.npy", shares)
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    data = data_of(tmp_path_factory.mktemp("tasks") / "data", USERS)
    return {world_size: run_ranks(of_each_task, world_size, data) for world_size in (1, 2)}


@each_task
def test_metrics_do_not_depend_on_the_number_of_ranks(name: str, measured: dict[int, list[dict[str, Any]]]) -> None:
    (one,) = measured[1]
    assert isinstance(one[name], dict), one[name]
    for rank in measured[2]:
        assert rank[name].keys() == one[name].keys()
        for key, value in one[name].items():
            assert rank[name][key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key


@pytest.fixture(scope="module")
def without_clicks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    nobody = select(USERS, np.flatnonzero(USERS.lengths == 0).tolist())
    return run_ranks(of_each_task, 2, data_of(tmp_path_factory.mktemp("tasks") / "data", nobody))


@each_task
def test_users_without_clicks_are_measured_or_refused_in_one_line(
    name: str, without_clicks: list[dict[str, Any]]
) -> None:
    first, second = (rank[name] for rank in without_clicks)
    assert first == second
    if isinstance(first, str):
        assert "\n" not in first
    else:
        users = [value for figure, value in first.items() if figure.split(".")[-1] == "users"]  # of each label space
        assert users
        assert min(users) > 0
