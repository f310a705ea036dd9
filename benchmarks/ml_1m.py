"""What quality does ppr_dist reach on MovieLens-1M? Next item (a), and simulated cold start (b).

    python -m benchmarks.ml_1m --log FOLDER --work FOLDER [--minutes 60] [--cold-minutes 30] [--out results.md]

``--log`` (or PPR_DIST_ML1M) holds interactions.parquet and users.parquet. Stages already done in ``--work`` are kept.
(a) prepares with --min-item-count 5, pre-trains configs/ml-1m for ``--minutes`` on one process, and ranks every
user's last item among the whole catalogue, seen items removed: the protocol of the published rows.
(b) prepares with --simulate-cold 0.2 and a tenth of the tuning users for validation, pre-trains for
``--cold-minutes``, tunes by all three methods, evaluates all tasks under both protocols.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.hardware import hardware, heading

ROOT = Path(__file__).parents[1]
TASKS = ("few-shot", "zero-shot", "joint")
METHODS = {"fine-tune": "tune-full.yaml", "ppr-light": "tune.yaml", "ppr-full": "tune-full.yaml"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=os.environ.get("PPR_DIST_ML1M"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--cold-minutes", type=float, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.log is None:
        parser.error("--log or PPR_DIST_ML1M must name the folder with interactions.parquet and users.parquet")
    next_item = _next_item(options.log, options.work, options.minutes)
    cold = _cold_start(options.log, options.work, options.cold_minutes)
    result = {"benchmark": "ml-1m", **hardware(), "next_item": next_item, "cold_start": cold}
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _next_item(log: Path, work: Path, minutes: float) -> dict[str, Any]:
    data, run = work / "data", work / "next-item"
    prepare(log, data)
    _pretrain(data, run, minutes)
    records = _records(run)
    curve = [
        {"epoch": r["epoch"] + 1, "hit@10": r["validation_hit@10"], "ndcg@10": r["validation_ndcg@10"]}
        for r in records
        if "validation_auc" in r
    ]
    rows = _evaluate(run, ["next-item"], "full") + _evaluate(run, ["next-item"], "full", "--baseline", "popularity")
    seconds = max(r.get("elapsed_s", 0.0) for r in records)
    return {"minutes": seconds / 60, "steps": records[-1]["step"], "validation": curve, "test": rows}


def _cold_start(log: Path, work: Path, minutes: float) -> list[dict[str, Any]]:
    data, run = work / "cold-data", work / "cold-pre-train"
    prepare(log, data, "--simulate-cold", "0.2", "--tune-validation-fraction", "0.1")
    _pretrain(data, run, minutes)
    rows = []
    for protocol in ("sampled-99", "full"):
        rows += _evaluate(run, TASKS, protocol, "--baseline", "popularity") + _evaluate(run, TASKS, protocol)
    for method, config in METHODS.items():
        tuned = work / f"cold-{method}"
        if not (tuned / "checkpoints").is_dir():
            config_path = ROOT / "configs" / "ml-1m" / config
            command(
                "tune", "--config", config_path, "--data", data, "--init", run, "--method", method, "--run-dir", tuned
            )
        for protocol in ("sampled-99", "full"):
            rows += _evaluate(tuned, TASKS, protocol)
    return rows


def prepare(log: Path, data: Path, *more: str) -> None:
    if not data.is_dir():
        files = ("--interactions", log / "interactions.parquet", "--users", log / "users.parquet")
        command("prepare", *files, "--out", data, "--min-item-count", 5, "--attributes", "gender,age,occupation", *more)


def _pretrain(data: Path, run: Path, minutes: float) -> None:
    if not (run / "checkpoints").is_dir():
        config = ROOT / "configs" / "ml-1m" / "pretrain.yaml"
        command("pretrain", "--config", config, "--data", data, "--run-dir", run, "--train.max_minutes", minutes)


def _evaluate(run: Path, tasks: Sequence[str], protocol: str, *more: str) -> list[dict[str, Any]]:
    words = ("--task", *tasks, "--protocol", protocol, "--progress", "false")
    out = command("evaluate", "--run-dir", run, *words, *more)
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def command(name: str, *arguments: Any) -> str:
    argv = [sys.executable, "-m", f"ppr_dist.{name}", *map(str, arguments)]
    print("---", *argv[1:], file=sys.stderr, flush=True)
    return subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def _records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    next_item = result["next_item"]
    lines = [
        *heading("MovieLens-1M: next item and cold start", result),
        f"    python -m benchmarks.ml_1m --log FOLDER --work FOLDER --minutes {options.minutes:g} "
        f"--cold-minutes {options.cold_minutes:g}",
        "",
        "## Next item",
        "",
        f"configs/ml-1m, one process, {next_item['minutes']:.0f} minutes of training ({next_item['steps']} steps). "
        "Last item of all users, ranked among the whole catalogue (items seen at least 5 times), seen items removed.",
        "",
        "| model | HIT@10 | NDCG@10 |",
        "|---|---|---|",
        *(f"| {r['method']} | {r['hit@10']:.4f} | {r['ndcg@10']:.4f} |" for r in next_item["test"]),
        "",
        "Validation (last but one item) while training:",
        "",
        "| epochs | HIT@10 | NDCG@10 |",
        "|---|---|---|",
        *(f"| {r['epoch']} | {r['hit@10']:.4f} | {r['ndcg@10']:.4f} |" for r in next_item["validation"]),
        "",
        "## Cold start",
        "",
        "20 % of the users made cold by keeping their first 9 interactions; 80 % of those tune (a tenth of "
        "them choose the best checkpoint), 20 % test.",
    ]
    shown = ["auc", "hit@5", "hit@10", "ndcg@5", "ndcg@10"]
    for protocol in ("sampled-99", "full"):
        lines += ["", f"Protocol {protocol}:", "", "| method | task | instances | " + " | ".join(shown).upper() + " |"]
        lines.append("|---" * (3 + len(shown)) + "|")
        for r in result["cold_start"]:
            if r["protocol"] == protocol:
                values = " | ".join("not defined" if r[m] is None else f"{r[m]:.4f}" for m in shown)
                lines.append(f"| {r['method']} | {r['task']} | {r['instances']} | {values} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
