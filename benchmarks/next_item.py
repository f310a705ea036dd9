"""How good is ppr_dist at the next item, on MovieLens-1M, Beauty and Toys, and what makes it so?

    python -m benchmarks.next_item --log FOLDER --work FOLDER [--study NAME …] [--minutes 90] [--out results.md]

``--log`` holds ml-1m, beauty and toys, each with an interactions.parquet. Studies and their trials stand in
benchmarks/next_item.yaml. Within a study all trials are trained for few epochs, those that are best on validation
(NDCG@10 of each user's last click but one) go on for more, and so forth; the last one left is trained with other seeds
too, and only those meet the test split (each user's last click), once. Each is then trained anew for as many epochs as
were best, on what validation asked for too (a refit), and reported apart. Learning rates are constant after their
warm-up, so that a run that goes on is the run that would have been longer from the start.

One training at a time. Everything lies in ``--work`` and is gone on with: after ``--minutes``, or SIGTERM, the run
saves where it is. ``--minutes 0`` reports what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.hardware import hardware, heading
from ppr_dist.files import read_lines

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "benchmarks" / "next_item.yaml"
PREPARE = {"ml-1m": ("--min-item-count", "5"), "beauty": ("--cold-threshold", "2"), "toys": ("--cold-threshold", "2")}
"""MovieLens-1M without items seen fewer than 5 times, as in the published rows; every user of the others is warm."""
PASSPORT = """\
Of every figure: each user's last click (test) or last but one (validation), in the published order of `position`;
ranked among the whole catalogue, the clicks before it removed, ties against the model; trained on all clicks but these
two. Whether the model saw the target's time stands beside it. Seconds: of a machine that did other work besides."""
METRIC, HIT = "validation_ndcg@10", "validation_hit@10"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    name: str
    question: str
    data: str
    config: str
    """Settings that all trials share, below configs/."""
    epochs: list[int]
    """Each trial that is still in is trained for so many, in turn."""
    keep: list[int]
    """How many go on after each of them but the last."""
    trials: dict[str, dict[str, Any]]
    """Options by name, in which each differs from the settings shared."""
    seeds: int = 1
    """Of the trial that is best at the end. 0: none is chosen, and the test split not touched."""


@dataclasses.dataclass(frozen=True)
class Trial:
    study: Study
    name: str
    folder: Path
    seed: int = 0
    refit: bool = False
    """Whether it trains on the targets of validation too."""

    def options(self, epochs: int) -> list[str]:
        """Of ``pretrain``, all that says what is trained."""
        changed = {**self.study.trials[self.name], "train.epochs": epochs, "train.seed": self.seed}
        if self.refit:
            changed |= {"train.refit": True, "train.eval_every_epochs": 0, "train.patience": None}
        words = (word for name, value in changed.items() for word in (f"--{name}", json.dumps(value).strip('"')))
        return ["--config", str(ROOT / "configs" / self.study.config), *words]

    @property
    def curve(self) -> list[dict[str, Any]]:
        """Validations; of each its ``epochs``."""
        return [{**r, "epochs": r["epoch"] + 1} for r in self._records() if METRIC in r]

    @property
    def best(self) -> dict[str, Any]:
        return max(self.curve, key=lambda r: (r[METRIC], -r["step"]))

    @property
    def epochs(self) -> int:
        """Validated to the end of which epoch."""
        return max((r["epochs"] for r in self.curve), default=0)

    @property
    def seconds(self) -> float:
        """Spent in the loop, over all its starts."""
        total = last = 0.0
        for elapsed in (r["elapsed_s"] for r in self._records() if "elapsed_s" in r):
            total, last = total + (last if elapsed < last else 0.0), elapsed
        return total + last

    @property
    def test(self) -> dict[str, Any] | None:
        """What was measured of the best checkpoint there is."""
        lines = read_lines(self.folder / "evaluations.jsonl")
        found = [r for r in lines if r["task"] == "next-item" and (self.refit or r["step"] == self.best["step"])]
        return found[-1] if found else None

    def _records(self) -> list[dict[str, Any]]:
        return read_lines(self.folder / "metrics.jsonl")


class TimeIsUp(Exception):
    """What is left is for the next start."""


class Queue:
    def __init__(self, log: Path, work: Path, minutes: float) -> None:
        self.log, self.work, self.deadline = log, work, time.monotonic() + 60 * minutes

    def trial(self, study: Study, name: str, seed: int = 0, *, refit: bool = False) -> Trial:
        words = [name, f"seed{seed}" if seed else "", "refit" if refit else ""]
        return Trial(study, name, self.work / "runs" / study.data / "-".join(filter(None, words)), seed, refit)

    def run(self, study: Study) -> None:
        """Train what the study still lacks. Raises :class:`TimeIsUp`."""
        trials = [self.trial(study, name) for name in study.trials]
        for stage, epochs in enumerate(study.epochs):
            for trial in trials:
                self.train(trial, epochs)
            keep = study.keep[stage] if stage < len(study.keep) else 1
            trials = sorted(trials, key=lambda t: -t.best[METRIC])[:keep]
        if study.seeds:
            chosen = [self.trial(study, trials[0].name, seed) for seed in range(study.seeds)]
            for trial in chosen:
                self.train(trial, study.epochs[-1])
                self._test(trial)
            for trial in chosen:
                refit = self.trial(study, trial.name, trial.seed, refit=True)
                self.train(refit, trial.best["epochs"])
                self._test(refit)

    def _test(self, trial: Trial) -> None:
        if trial.test is None:
            self._command("evaluate", "--run-dir", trial.folder, "--task", "next-item", "--protocol", "full")

    def train(self, trial: Trial, epochs: int) -> None:
        done = trial.folder.parent / f"{trial.folder.name}.done"
        if done.is_file() and int(done.read_text()) >= epochs:
            return
        data = self.work / "data" / trial.study.data
        if not data.is_dir():
            clicks = self.log / trial.study.data / "interactions.parquet"
            self._command("prepare", "--interactions", clicks, "--out", data, *PREPARE[trial.study.data])
        words = trial.options(epochs)
        self._command("pretrain", "--data", data, "--run-dir", trial.folder, "--resume", *words)
        done.write_text(f"{epochs}\n")

    def _command(self, name: str, *arguments: Any) -> None:
        """Run one of ppr_dist's commands; told to stop when time is up, it saves where it is."""
        if time.monotonic() > self.deadline:
            raise TimeIsUp
        argv = [sys.executable, "-m", f"ppr_dist.{name}", *map(str, arguments)]
        print("---", *argv[1:], file=sys.stderr, flush=True)
        with subprocess.Popen(argv, cwd=ROOT, stdout=sys.stderr) as process:
            try:
                status = process.wait(max(0.0, self.deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, _Terminated):
                process.send_signal(signal.SIGTERM)
                process.wait()
                raise TimeIsUp from None
        if status:
            raise SystemExit(f"{name} ended with status {status}")


class _Terminated(Exception):
    """SIGTERM."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    studies = read_studies()
    parser.add_argument("--study", nargs="+", choices=list(studies), default=list(studies))
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    queue = Queue(options.log.resolve(), options.work.resolve(), options.minutes)
    (queue.work / "data").mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        for name in options.study if options.minutes else ():
            queue.run(studies[name])
    except (TimeIsUp, _Terminated):
        print("time is up: started again, it goes on", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    result = {
        "benchmark": "next_item",
        **hardware(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "studies": {name: _result(queue, studies[name]) for name in options.study},
    }
    if options.out:
        options.out.write_text("\n".join(_markdown(result)) + "\n")
    print(json.dumps(result))


def read_studies() -> dict[str, Study]:
    """By name."""
    return {name: Study(name=name, **body) for name, body in yaml.safe_load(STUDIES.read_text()).items()}


def _terminate(*_: object) -> None:
    raise _Terminated


def _result(queue: Queue, study: Study) -> dict[str, Any]:
    found = [queue.trial(study, name, seed) for name in study.trials for seed in range(max(1, study.seeds))]
    rows = []
    for trial in (t for t in found if t.curve):
        best, test = trial.best, trial.test
        refit = queue.trial(study, trial.name, trial.seed, refit=True).test
        rows.append(
            {
                "trial": trial.name,
                "seed": trial.seed,
                "options": study.trials[trial.name],
                "epochs": trial.epochs,
                "best_epoch": best["epochs"],
                "validation": {"ndcg@10": best[METRIC], "hit@10": best[HIT]},
                "target_time": best["target_time"],
                "seconds": trial.seconds,
                "curve": {r["epochs"]: r[METRIC] for r in trial.curve},
                "test": test and _tested(test),
                "refit": refit and _tested(refit),
            }
        )
    missing = [t.name for t in found if not t.curve and t.seed == 0]
    about = {"question": study.question, "data": study.data, "config": study.config, "seeds": study.seeds}
    return {**about, "rows": rows, "not_run": missing}


def _tested(line: dict[str, Any]) -> dict[str, Any]:
    return {key: line[key] for key in ("ndcg@10", "hit@10", "instances", "passport")}


def _markdown(result: dict[str, Any]) -> Iterator[str]:
    note = f"One process, OMP_NUM_THREADS {result['threads']}. Written by `python -m benchmarks.next_item`."
    yield from heading("Next item: search, curves and test", result, note)
    yield PASSPORT
    for name, study in result["studies"].items():
        yield from ("", f"## {name}", "", f"{study['question']} {study['data']}, configs/{study['config']}.", "")
        rows = sorted(study["rows"], key=lambda r: -r["validation"]["ndcg@10"])
        if rows:
            yield from _table(rows)
            yield from _curves(rows)
            yield from _seeds(rows)
        if study["not_run"]:
            yield from ("", f"Not run yet: {', '.join(study['not_run'])}.")


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    columns = ("trial", "options", "seed", "target's time", "epochs", "best", "validation NDCG@10 / HR@10", "seconds")
    yield f"| {' | '.join(columns)} | test NDCG@10 / HR@10 |"
    yield "|---" * (len(columns) + 1) + "|"
    for r in rows:
        options = ", ".join(f"{key} {value}" for key, value in r["options"].items()) or "those of the configuration"
        test = f"{r['test']['ndcg@10']:.4f} / {r['test']['hit@10']:.4f}" if r["test"] else ""
        figures = f"{r['validation']['ndcg@10']:.4f} / {r['validation']['hit@10']:.4f}"
        seen = "seen" if r["target_time"] else "not seen"
        yield (
            f"| {r['trial']} | {options} | {r['seed']} | {seen} | {r['epochs']} | {r['best_epoch']} | {figures} | "
            f"{r['seconds']:.0f} | {test} |"
        )


def _curves(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Validation NDCG@10 by epoch, a column for each run, at a dozen epochs at most."""
    epochs = sorted({epoch for r in rows for epoch in r["curve"]})
    shown = epochs[:: -(-len(epochs) // 12)]
    names = [r["trial"] + (f", seed {r['seed']}" if r["seed"] else "") for r in rows]
    yield from ("", "Validation NDCG@10 after so many epochs:", "", f"| epochs | {' | '.join(names)} |")
    yield "|---" * (1 + len(rows)) + "|"
    for epoch in shown:
        values = " | ".join(f"{r['curve'][epoch]:.4f}" if epoch in r["curve"] else "" for r in rows)
        yield f"| {epoch} | {values} |"


def _seeds(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Of the trial that is best on validation, the first of ``rows``."""
    of_best = [r for r in rows if r["trial"] == rows[0]["trial"]]
    said = {"test": "Test", "refit": "Refit for the epochs that validation chose, its targets trained on too: test"}
    for kind, words in said.items():
        tested = [r[kind] for r in of_best if r[kind]]
        if tested:
            figures = (
                f"{metric.upper()} {statistics.mean(values):.4f}"
                + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")
                for metric in ("ndcg@10", "hit@10")
                if (values := [r[metric] for r in tested])
            )
            seeds = f"{len(tested)} seeds, mean ± standard deviation" if len(tested) > 1 else "one seed"
            yield from ("", f"{words} of {rows[0]['trial']}, {seeds}: {', '.join(figures)}.")


if __name__ == "__main__":
    main()
