"""The protocol: folds, pre-training, search on validation users, seeds of tuning, sums over test users.

In ``WORK/LOG/``: data-* (prepared), pretrain-*, and runs/*. What is there is not made again. One pre-training serves
all folds: they differ in which of the cold users are for testing, and pre-training sees none of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import jobs
from benchmarks.jobs import merged
from benchmarks.ml_1m import ROOT
from benchmarks.paper.jobs import Job
from benchmarks.paper.methods import METHODS, PRETRAINED, trial
from benchmarks.statistics import Sums, metric_of, sums
from ppr_dist.errors import UserError
from ppr_dist.passport import difference

TARGETS = {"few-shot": "later", "zero-shot": "first", "joint": "all"}
"""What a model learns that has weights of its own for a task (PPR, Tables III and IV), or one set for both (V)."""
METRICS = ("auc", *(f"{name}@{n}" for n in (5, 10, 20, 50) for name in ("hit", "ndcg")))
"""The paper's nine."""
BEST = "ndcg@50"
"""By which validation chooses checkpoints and trials, ranked among the whole catalogue: of NDCG the one to which most
instances contribute, since validation users are few."""

Found = dict[str, tuple[Mapping[str, Any], list[Any]]]
"""By method that is tuned: the options of its best trial, and the results of all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run."""

    trials: int = 8
    seeds: int = 5
    folds: tuple[int, ...] = (1, 2, 3, 4, 5)
    nested: bool = False
    """Whether each fold is searched on its own validation users (nested cross-validation); else fold 1 for all."""
    pretrainings: int = 3
    epochs: int = 30
    patience: int = 3
    pretrain_epochs: int | None = None
    """None: as the log's configuration says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    """A click log and how it is prepared, pre-trained and tuned on."""

    name: str
    interactions: Path
    users: Path
    prepare: Mapping[str, Any]
    pretrain: Mapping[str, Any]
    """Options of ``pretrain``."""
    tune: Path
    attributes: tuple[str, ...]
    """To be predicted in Table VIII."""


@dataclasses.dataclass(frozen=True)
class Study:
    log: Log
    scale: Scale
    work: Path
    workers: int
    only: tuple[str, ...] = ()
    """Rows that rankings have; empty: all."""

    def data(self, fold: int, **variant: int) -> Path:
        """Prepared data of a fold; ``variant``: further options of ``prepare``."""
        name = "-".join([f"data-fold-{fold}", *(f"{option}-{value}" for option, value in sorted(variant.items()))])
        return self._prepared(name, {"tune_test_fold": fold, "tune_validation_fraction": 0.2, **variant})

    def _prepared(self, name: str, options: Mapping[str, Any]) -> Path:
        from ppr_dist.library import prepare

        out = self.work / self.log.name / name
        if not out.is_dir():
            files = {"interactions": self.log.interactions, "users": self.log.users, "out": out}
            prepare(**{**files, **self.log.prepare, **options})
        return out

    def pretrained(self, name: str, seed: int, fold: int) -> Path:
        """The run of a pre-training, on the warm users; where it sees users to tune on too, one for each fold."""
        of_fold = "split" in PRETRAINED[name]
        out = self.work / self.log.name / f"pretrain-{name}-{seed}{f'-fold-{fold}' if of_fold else ''}"
        if not (out / "done").is_file():
            from ppr_dist.library import pretrain

            epochs = {"epochs": self.scale.pretrain_epochs} if self.scale.pretrain_epochs else {}
            options = merged(self.log.pretrain, PRETRAINED[name], {"train": {"seed": seed, **epochs}})
            data = self.data(fold) if of_fold else self._prepared("warm", {})
            pretrain(data=data, run_dir=out, resume=True, **options)
            (out / "done").touch()
        return out

    def _job(
        self, method: str, task: str, fold: int, folder: str, options: Mapping[str, Any], *, test: bool, **variant: Any
    ) -> Job:
        pretrained, seed = variant.pop("pretrained", "sasrec"), variant.pop("pretrain_seed", 0)
        attribute = variant.pop("attribute", None)
        usual: dict[str, Any] = {"epochs": self.scale.epochs, "patience": self.scale.patience, "eval_every_epochs": 1}
        if attribute:
            asked = {
                "attribute": {"name": attribute},
                "train": {"objectives": ["attribute"], "best_metric": "accuracy"},
            }
        else:
            asked = {"train": {"targets": TARGETS[task], "validation_task": task, "best_metric": BEST}}
        parts = [task, pretrained if pretrained != "sasrec" else "", f"pretrain-seed-{seed}" if seed else ""]
        parts += [attribute or "", *(f"{option}-{value}" for option, value in sorted(variant.items()))]
        place = "-".join(part for part in parts if part)
        return Job(
            folder=self.work / self.log.name / "runs" / place / f"fold-{fold}" / method.replace(", ", "-") / folder,
            config=self.log.tune,
            data=self.data(fold, **variant),
            init=self.pretrained(METHODS[method].pretrained or pretrained, seed, fold),
            method=METHODS[method],
            options=merged(options, {"train": usual}, asked),
            task="attribute" if attribute else "joint",
            test=test,
        )

    def search(self, methods: Sequence[str], task: str, **variant: Any) -> dict[int, Found]:
        """By fold, what the search found for it. Looks at validation users alone."""
        folds = self.scale.folds if self.scale.nested else (1,)
        found = {fold: self._search(methods, task, fold, **variant) for fold in folds}
        return {fold: found[fold if self.scale.nested else 1] for fold in self.scale.folds}

    def _search(self, methods: Sequence[str], task: str, fold: int, **variant: Any) -> Found:
        asked = [
            (method, number, trial(METHODS[method], number))
            for method in methods
            if METHODS[method].tune
            for number in range(self.scale.trials)
        ]
        todo = [
            self._job(method, task, fold, f"trial-{number}", options, test=False, **variant)
            for method, number, options in asked
        ]
        results = jobs.run(todo, f"{self.log.name}: search for {task}, fold {fold}", self.workers)
        found: Found = {}
        for method in dict.fromkeys(method for method, _, _ in asked):
            own = [(options, r) for (name, _, options), r in zip(asked, results, strict=True) if name == method]
            best = max(range(len(own)), key=lambda n: own[n][1]["validation"])
            found[method] = own[best][0], [result for _, result in own]
        return found

    def tested(
        self, methods: Sequence[str], task: str, *, searched: Mapping[int, Found] | None = None, **variant: Any
    ) -> dict[int, dict[str, list[Job]]]:
        """Jobs by fold and method, one for each seed, done: with the options that the search chose."""
        chosen = searched if searched is not None else self.search(methods, task, **variant)
        out: dict[int, dict[str, list[Job]]] = {}
        for fold in self.scale.folds:  # one after the other: a fold is what can be waited for
            for method in methods:
                seeds = range(self.scale.seeds) if METHODS[method].tune else (0,)
                options = chosen[fold][method][0] if METHODS[method].tune else {}
                out.setdefault(fold, {})[method] = [
                    self._job(
                        method,
                        task,
                        fold,
                        f"seed-{seed}",
                        merged(options, {"train": {"seed": seed}}),
                        test=True,
                        **variant,
                    )
                    for seed in seeds
                ]
            every = [job for of_method in out[fold].values() for job in of_method]
            jobs.run(every, f"{self.log.name}: {task}, fold {fold}", self.workers)
        return out


def instances(job: Job) -> Mapping[str, Any]:
    """The test users' ranks of a job that is done."""
    with np.load(job.folder / "ranks.npz") as kept:
        return {name: kept[name] for name in kept.files}


def collect(by_fold: Mapping[int, Mapping[str, Sequence[Job]]], task: str, protocol: str) -> dict[str, Sums]:
    """Of each of :data:`METRICS`, the sums over all folds' test users, for the instances of ``task``.

    Raises :class:`UserError` where runs were not measured alike (their passports), or rank other instances.
    """
    total: dict[str, Sums] = {}
    for of_method in by_fold.values():
        names = [name for name in of_method if METHODS[name].answers_first or task == "few-shot"]
        _check_alike([job for name in names for job in of_method[name]], protocol)
        ranks = {name: [instances(job) for job in of_method[name]] for name in names}
        first = ranks[names[0]][0]
        for each in (one for of in ranks.values() for one in of):
            if any((each[key] != first[key]).any() for key in ("user_id", "position")):
                raise UserError("runs of a fold rank other instances: delete their folders and run again")
        which = {
            "few-shot": first["position"] > 0,
            "zero-shot": first["position"] == 0,
            "joint": np.ones(len(first["position"]), bool),
        }[task]
        _, user = np.unique(first["user_id"][which], return_inverse=True)
        for metric in METRICS:
            measured = {
                name: np.stack(
                    [metric_of(one[f"{protocol} rank"], one[f"{protocol} candidates"], metric)[which] for one in of]
                )
                for name, of in ranks.items()
            }
            of_fold = sums(measured, user)
            total[metric] = total[metric] + of_fold if metric in total else of_fold
    return total


def _check_alike(done: Sequence[Job], protocol: str) -> None:
    passports = [line["passport"] for job in done for line in job.result()["lines"] if line["protocol"] == protocol]
    for passport in passports[1:]:
        if name := difference(passports[0], passport):
            raise UserError(f"runs of one table differ in {name}: delete their folders and run again")


def synthetic(work: Path, *, quick: bool) -> Log:
    """The synthetic catalogue, made where it is not there."""
    from ppr_dist.data.synthetic.catalogue import SyntheticConfig, generate

    folder = work / "synthetic-log"
    users, items = (1_000, 300) if quick else (6_000, 2_000)
    if not folder.is_dir():
        generate(SyntheticConfig(users=users, items=items), folder)
    configs = ROOT / "configs" / "demo"
    return Log(
        name="synthetic",
        interactions=folder / "interactions.parquet",
        users=folder / "users.parquet",
        prepare={"buckets": {"age": 6}},
        pretrain={"config": configs / "pretrain.yaml"},
        tune=configs / "tune.yaml",
        attributes=("gender", "age"),
    )


QUICK_USERS = 1_000
"""Of MovieLens-1M, with --quick."""


def ml_1m(folder: Path, work: Path, *, quick: bool) -> Log:
    """MovieLens-1M: a fifth of the users made cold. Pre-training converges in few epochs (benchmarks/positions.py)."""
    configs = ROOT / "configs" / "ml-1m"
    fast = {
        "config": configs / "pretrain.yaml",
        "sasrec": {"heads": 1},
        "model": {"dropout": 0.1},
        "softmax": {"uniform_negatives": 3000, "in_batch_per_user": 0},
        "train": {"epochs": 30, "max_minutes": None},
    }
    if quick:
        folder = _some_users(folder, work / "ml-1m-log")
        fast = merged(fast, {"model": {"max_length": 50}, "softmax": {"uniform_negatives": 500}})
    return Log(
        name="ml-1m",
        interactions=folder / "interactions.parquet",
        users=folder / "users.parquet",
        prepare={"min_item_count": 5, "attributes": ["gender", "age", "occupation"], "simulate_cold": 0.2},
        pretrain=fast,
        tune=configs / "tune.yaml",
        attributes=("gender", "age"),
    )


def _some_users(log: Path, out: Path) -> Path:
    """The log of a few of its users, drawn by hash, made where it is not there."""
    import duckdb

    out.mkdir(parents=True, exist_ok=True)
    for name in ("users", "interactions"):  # the larger last
        if not (out / f"{name}.parquet").is_file():
            chosen = f"SELECT user_id FROM '{log}/users.parquet' ORDER BY md5(user_id::VARCHAR) LIMIT {QUICK_USERS}"
            some = f"SELECT * FROM '{log}/{name}.parquet' WHERE user_id IN ({chosen})"
            duckdb.sql(f"COPY ({some}) TO '{out}/{name}.parquet.new' (FORMAT parquet)")
            (out / f"{name}.parquet.new").rename(out / f"{name}.parquet")
    return out
