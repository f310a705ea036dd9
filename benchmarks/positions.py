"""Should positions count from the first interaction kept, or back from the last? MovieLens-1M, next item and few-shot.

    python -m benchmarks.positions --log FOLDER --work FOLDER [--epochs 20] [--seeds 3]

``--log`` as in :mod:`benchmarks.ml_1m`. Pre-trains both for as many epochs on the warm users (prepare --simulate-cold
0.2; one head, dropout 0.1, 3,000 uniform negatives, none in batch: settings that converge in few epochs), tunes each by
ppr-light and fine-tune from several seeds for all epochs of configs/ml-1m, and ranks among the whole catalogue. Stages
already done in ``--work`` are kept. Differences are paired by instance; standard errors are clustered by user.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.hardware import hardware
from benchmarks.ml_1m import ROOT, command, prepare

METHODS = {"ppr-light": "tune.yaml", "fine-tune": "tune-full.yaml"}
FAST = (
    "--sasrec.heads",
    1,
    "--model.dropout",
    0.1,
    "--softmax.uniform_negatives",
    3000,
    "--softmax.in_batch_per_user",
    0,
)
ALL_EPOCHS = ("--train.eval_every_epochs", 0, "--train.best_metric", "null", "--train.patience", "null")
METRICS = ("hit@10", "ndcg@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = options.work / "cold-data"
    prepare(options.log, data, "--simulate-cold", "0.2")
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for positions in ("first", "last"):
        run = options.work / f"pre-{positions}"
        limits = ("--train.epochs", options.epochs, "--train.max_minutes", "null")
        _train("pretrain", "pretrain.yaml", data, run, *FAST, "--sasrec.positions", positions, *limits)
        for task in ("validation", "next-item", "few-shot"):
            found["pre-train", task, positions] = [_ranked(run, task)]
        for method, seed in itertools.product(METHODS, range(options.seeds)):
            tuned = options.work / f"tuned-{positions}-{method}-{seed}"
            flags = ("--init", run, "--method", method, "--train.seed", seed, *ALL_EPOCHS)
            _train("tune", METHODS[method], data, tuned, *flags)
            for task in ("few-shot", "zero-shot"):
                found.setdefault((method, task, positions), []).append(_ranked(tuned, task))
    print("| model | task | instances | metric | first | last | first − last |\n|---|---|---|---|---|---|---|")
    rows = [row for model, task, positions in found if positions == "first" for row in _rows(found, model, task)]
    print(json.dumps({"benchmark": "positions", **hardware(), "rows": rows}))


def _train(job: str, config: str, data: Path, run: Path, *flags: Any) -> None:
    if not (run / "checkpoints").is_dir():
        file = ROOT / "configs" / "ml-1m" / config
        command(job, "--config", file, "--data", data, "--run-dir", run, *flags)


def _ranked(run: Path, task: str) -> np.ndarray:
    """(user, item, hit@10, ndcg@10) of every instance, sorted by user and item, float64 [I, 4]."""
    out = run / f"{task}.predictions"
    if not out.exists():
        command("evaluate", "--run-dir", run, "--task", task, "--protocol", "full", "--predictions", out)
    user, item, rank = (pq.read_table(out).column(name).to_numpy() for name in ("user_id", "item_id", "rank"))
    hit = rank <= 10
    rows = np.stack([user, item, hit, hit / np.log2(rank + 1)], axis=1)
    return rows[np.lexsort((item, user))]


def _rows(found: dict[tuple[str, str, str], list[np.ndarray]], model: str, task: str) -> list[dict[str, Any]]:
    """One row per metric, means over the seeds; and print them."""
    first, last = (np.mean(found[model, task, positions], axis=0) for positions in ("first", "last"))
    assert (first[:, :2] == last[:, :2]).all(), "both rank the same instances"
    rows = []
    for column, metric in enumerate(METRICS, 2):
        values = {"first": first[:, column], "last": last[:, column], "difference": first[:, column] - last[:, column]}
        row: dict[str, Any] = {"model": model, "task": task, "instances": len(first), "metric": metric}
        for name, value in values.items():
            row[name], row[f"{name}_error"] = float(value.mean()), _standard_error(value, first[:, 0])
        cells = (f"{row[name]:{'+' * (name == 'difference')}.4f} ± {row[f'{name}_error']:.4f}" for name in values)
        print(f"| {model} | {task} | {len(first)} | {metric} | {' | '.join(cells)} |")
        rows.append(row)
    return rows


def _standard_error(values: np.ndarray, user: np.ndarray) -> float:
    """Of the mean of values [I] whose users' instances go together."""
    _, row = np.unique(user, return_inverse=True)
    by_user = np.bincount(row, weights=values - values.mean())
    return float(np.sqrt((by_user**2).sum()) / len(values))


if __name__ == "__main__":
    main()
