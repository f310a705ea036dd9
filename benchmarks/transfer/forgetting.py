"""Six tasks one after another in one backbone: Conure (``continual``) beside fine-tuning one model again and again.

Task 1 is the next item; the others predict a label of users from their clicks. Heads and items stay as each task left
them: what a task can lose is the backbone.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import jobs
from benchmarks.jobs import merged
from benchmarks.markdown import markdown
from benchmarks.transfer.content import GENRES
from benchmarks.transfer.setting import TUNE, Result, Setting
from benchmarks.transfer.training import Training

KEEP = 0.3
"""Share of the free weights that a task keeps, as in the authors' configuration (maskp 0.7)."""
FIRST = "next item"
TASKS = {
    "ml-1m": (FIRST, "gender", "age", "occupation", "genre", "years"),
    "synthetic": (FIRST, "gender", "age", "city", "topic", "clicks"),
}


def forgetting(setting: Setting) -> Result:
    """Accuracy of each of six tasks after each later one: continual against sequential fine-tuning."""
    lines: list[str] = []
    kept: dict[str, Any] = {}
    for log in setting.names:
        data, tasks, matrices = _data(setting, log), TASKS[log], {}
        chains = [Chain(setting, log, data, tasks, seed) for seed in range(setting.seeds)]
        for stage in zip(*(chain.stages() for chain in chains), strict=True):
            setting.run([training for of_seed in stage for training in of_seed], f"{log}: tasks")
        asked = [each for chain in chains for each in chain.memories()]
        found = jobs.run(asked, f"{log}: what is left of each task", setting.workers)
        for name in ("continual", "fine-tune"):
            matrices[name] = [r for job, r in zip(asked, found, strict=True) if job.method == name]
        alone = [[training.result()["lines"]["test"]["accuracy"] for training in chain.alone] for chain in chains]
        rates = [training.result()["lines"]["test"]["majority_rate"] for training in chains[0].alone]
        for name, of_seed in matrices.items():
            lines += ["", f"## {log}, {name}", "", *_table(tasks, [r["accuracy"] for r in of_seed])]
            same = "yes" if all(r["identical"] for r in of_seed) else "no"
            lines += ["", f"User vectors and outputs of earlier tasks identical to the byte: {same}."]
            kept[f"{log} {name}"] = [{k: r[k] for k in ("accuracy", "identical")} for r in of_seed]
        ends = {"alone": alone} | {name: [r["accuracy"][-1][1:] for r in of] for name, of in matrices.items()}
        rows = [
            [task, f"{rate:.4f}", *(_said([of[n] for of in of_seed]) for of_seed in ends.values())]
            for n, (task, rate) in enumerate(zip(tasks[1:], rates, strict=True))
        ]
        head = ["task", "most frequent value", *ends]
        lines += ["", f"## {log}, at the end", "", *markdown(head, rows)]
        kept[f"{log} alone"] = {"accuracy": alone, "majority": rates}
    note = (
        "Rows: what was trained last; columns: what is asked. next item: HIT@10 in the whole catalogue, of the warm"
        " users' last click; others: accuracy on the cold test users. Means ± deviation over seeds; items are frozen"
        f" after pre-training. Continual keeps {KEEP} of what is free for each task. Alone: fine-tuned from the"
        " pre-trained model for that task only."
    )
    return [note, *lines], kept


@dataclasses.dataclass(frozen=True)
class Chain:
    """What one seed trains."""

    setting: Setting
    log: str
    data: Path
    tasks: tuple[str, ...]
    seed: int

    @property
    def pretrained(self) -> Training:
        return self.setting.pretraining(f"{self.log}/tasks/pretrain", self.data, self.seed, keep=True)

    def _tune(self, name: str, method: str, start: Training, task: str, **options: Any) -> Training:
        own: Mapping[str, Any] = {"split": "pretrain"}
        if task != FIRST:
            own = {"labels": {"names": [task]}, "train": {"objectives": ["labels"]}}
        epochs = 1 if self.setting.quick else 2 if task == FIRST else 20
        return Training(
            folder=self.setting.work / "runs" / self.log / "tasks" / name / f"seed-{self.seed}",
            command="tune",
            options=merged(
                {"config": TUNE, "data": self.data, "method": method, "train": {"epochs": epochs, "seed": self.seed}},
                own,
                options,
            ),
            start=start,
            asks={"test": {"task": "labels"}} if name.startswith("alone") else {},
            keep=True,
        )

    @property
    def continual(self) -> list[Training]:
        """Two runs of each task, the second with what it keeps; the first task's first is the pre-training."""
        runs = [self.pretrained]
        for number, task in enumerate(self.tasks, 1):
            if number > 1:
                runs.append(self._tune(f"continual-{number}-free", "continual", runs[-1], task))
            kept = {"continual": {"keep": KEEP}}
            runs.append(self._tune(f"continual-{number}", "continual", runs[-1], task, **kept))
        return runs

    @property
    def fine_tuned(self) -> list[Training]:
        runs = [self.pretrained]
        for number, task in enumerate(self.tasks[1:], 2):
            runs.append(self._tune(f"fine-tune-{number}", "fine-tune", runs[-1], task, tables={"train_items": False}))
        return runs

    @property
    def alone(self) -> list[Training]:
        frozen = {"tables": {"train_items": False}}
        return [self._tune(f"alone-{task}", "fine-tune", self.pretrained, task, **frozen) for task in self.tasks[1:]]

    def stages(self) -> Iterator[list[Training]]:
        """What can be trained at a time, each stage after the ones before."""
        continual, fine_tuned = self.continual, self.fine_tuned
        yield continual[:1]
        yield [continual[1], fine_tuned[1], *self.alone]
        for number in range(2, len(continual)):
            yield [continual[number], *fine_tuned[number : number + 1]]

    def memories(self) -> list[Memory]:
        """What is left of each task after each later one."""
        of_task = {"continual": self.continual[1::2], "fine-tune": self.fine_tuned}
        return [
            Memory(
                folder=self.setting.work / "runs" / self.log / "tasks" / f"memory-{name}" / f"seed-{self.seed}",
                method=name,
                runs=tuple(runs),
            )
            for name, runs in of_task.items()
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory(jobs.Job):
    """Asks the run of each task what it was trained for, with the backbone of each later run."""

    method: str
    runs: tuple[Training, ...]
    """One for each task, in order."""

    @property
    def asked(self) -> dict[str, Any]:
        return {"method": self.method, "runs": [training.asked for training in self.runs]}

    def work(self) -> dict[str, Any]:
        """``accuracy`` [tasks after, tasks asked] and whether all that earlier tasks give stayed ``identical``."""
        import torch

        from ppr_dist.evaluation import evaluate
        from ppr_dist.parallel.distributed import distributed_context
        from ppr_dist.trained import load_trained
        from ppr_dist.tuning.continual import serve_from

        accuracy: list[list[float]] = []
        digests: dict[int, str] = {}
        identical = True
        with distributed_context() as context, torch.no_grad():
            every = [load_trained(training.run, None, context) for training in self.runs]
            as_trained = [copy.deepcopy(trained.scorer.model) for trained in every]
            for after, later in enumerate(as_trained):
                accuracy.append([])
                for number, trained in enumerate(every[: after + 1]):
                    if self.method == "continual":
                        serve_from(trained.scorer.model, later)
                    else:
                        trained.scorer.model.backbone.load_state_dict(later.backbone.state_dict())
                    task, metric = ("labels", "score") if number else ("next-item", "hit@10")
                    figures = evaluate(
                        trained.scorer,
                        trained.data,
                        trained.manifest,
                        context,
                        task=task,
                        protocol="full",
                        config=trained.config,
                    )
                    accuracy[-1].append(figures[metric])
                    digest = _digest(trained)
                    identical &= digests.setdefault(number, digest) == digest
        return {"accuracy": accuracy, "identical": identical}


def _digest(trained: Any) -> str:
    """SHA-256 of the bytes of all that the model gives for the cold test users: user vectors and outputs of heads."""
    from ppr_dist.data.stream.instances import Instances, history_batch
    from ppr_dist.data.stream.user_stream import users_in_order

    _, blocks = users_in_order(trained.data, trained.manifest, "tune-test", rank=0, world_size=1, at_once=256)
    digest = hashlib.sha256()
    for users in blocks:
        instances = Instances(users, np.arange(len(users)), users.lengths)
        encoded = trained.scorer.encode(history_batch(instances, trained.config.model.max_length))
        for tensor in (encoded.user, *encoded.heads.values()):
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _table(tasks: Sequence[str], of_seed: Sequence[Sequence[Sequence[float]]]) -> list[str]:
    rows = []
    for after, name in enumerate(tasks):
        cells = [_said([matrix[after][number] for matrix in of_seed]) for number in range(after + 1)]
        rows.append([f"after {name}", *cells, *[""] * (len(tasks) - after - 1)])
    return markdown(["", *tasks], rows)


def _said(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def _data(setting: Setting, log: str) -> Path:
    """Half of the users cut to their first 20 clicks; labels know of all clicks."""
    folder = setting.work / "logs" / f"{log}-labels"
    files = {name: folder / f"{name}.parquet" for name in TASKS[log][1:]}
    if not folder.is_dir():
        folder.mkdir(parents=True)
        found = _movie_labels(setting.log(log)) if log == "ml-1m" else _invented_labels(setting)
        for name, label in found.items():
            pq.write_table(pa.table({"user_id": list(label), "label": list(label.values())}), files[name])
    rare = {"min_item_count": 5} if log == "ml-1m" else {}
    cold = {"cold_threshold": 21, "simulate_cold": 0.5, "tune_validation_fraction": 0.1}
    return setting.prepared(f"{log}-tasks", log, labels=files, **cold, **rare)


def _movie_labels(folder: Path) -> dict[str, dict[int, Any]]:
    """gender, age, occupation as published; of all of a user's films ``genre``, among the eight most clicked the one
    with the largest share of the user's films against its share of all, and ``years``, the quarter of the users by the
    mean year of their films.
    """
    users, items = (pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("users", "items"))
    clicks = pq.read_table(folder / "interactions.parquet", columns=["user_id", "item_id"])
    row = {item["item_id"]: n for n, item in enumerate(items)}
    genres = np.array([[genre in item["genres"] for genre in GENRES] for item in items])
    year = np.array([int(item["title"][-5:-1]) for item in items])
    item = np.array([row[i] for i in clicks["item_id"].to_pylist()])
    ids, user = np.unique(clicks["user_id"].to_numpy(), return_inverse=True)
    count = np.stack([np.bincount(user, weights=genres[item, g]) for g in range(len(GENRES))], axis=1)
    most = np.argsort(-count.sum(axis=0))[:8]
    lift = (count / np.bincount(user)[:, None] / (count.sum(axis=0) / len(item)))[:, most]
    mean_year = np.bincount(user, weights=year[item]) / np.bincount(user)
    labels: dict[str, dict[int, Any]] = {
        name: {u["user_id"]: u[name] for u in users} for name in ("gender", "age", "occupation")
    }
    labels["genre"] = dict(zip(ids.tolist(), (GENRES[most[n]] for n in lift.argmax(axis=1)), strict=True))
    labels["years"] = dict(zip(ids.tolist(), _quarters(mean_year), strict=True))
    return labels


def _invented_labels(setting: Setting) -> dict[str, dict[int, Any]]:
    """gender, decade of age and city of the synthetic catalogue, where known; ``topic``, of which a user clicked most,
    and ``clicks``, the quarter of the users by how many clicks they have.
    """
    folder, topics = setting.log("synthetic"), setting.synthetic().topics
    users = pq.read_table(folder / "users.parquet").to_pylist()
    clicks = pq.read_table(folder / "interactions.parquet", columns=["user_id", "item_id"])
    counts = np.zeros((len(users), topics), np.int64)
    np.add.at(counts, (clicks["user_id"].to_numpy(), clicks["item_id"].to_numpy() % topics), 1)
    labels: dict[str, dict[int, Any]] = {
        name: {u["user_id"]: u[name] for u in users if u[name] is not None} for name in ("gender", "age", "city")
    }
    labels["age"] = {user: age // 10 for user, age in labels["age"].items()}
    labels["topic"] = dict(enumerate(counts.argmax(axis=1).tolist()))
    labels["clicks"] = dict(enumerate(_quarters(counts.sum(axis=1))))
    return labels


def _quarters(values: np.ndarray[Any, Any]) -> list[int]:
    found: list[int] = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values).tolist()
    return found
