"""``python -m ppr_dist.report RUN [RUN …] --out FOLDER``: a table and a picture of several runs side by side.

Reads what runs wrote: evaluations.jsonl (the latest line of each task, protocol and method) and metrics.jsonl.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from ppr_dist import cli
from ppr_dist.config import parse
from ppr_dist.errors import UserError

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    runs: list[Path]
    """Runs that were evaluated, in the order they are to be shown."""
    out: Path
    """Folder for report.md and report.png."""
    protocol: Literal["sampled-99", "full"] = "sampled-99"
    """Protocol to show."""
    metric: str = "ndcg@10"
    """Metric of the picture."""


def main(argv: list[str] | None = None) -> None:
    arguments, _ = parse("ppr_dist.report", argv, Arguments, with_config=False)
    rows = [row for run in arguments.runs for row in _evaluations(run, arguments.protocol)]
    if arguments.metric not in rows[0]:
        raise UserError(f"--metric {arguments.metric}: no such metric; there are {', '.join(_metrics(rows[0]))}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = markdown(rows)
    (arguments.out / "report.md").write_text(table + "\n")
    draw(rows, {run.name: _losses(run) for run in arguments.runs}, arguments.metric, arguments.out / "report.png")
    print(table)
    print(f"\n{arguments.out / 'report.md'}, {arguments.out / 'report.png'}", flush=True)


def _evaluations(run: Path, protocol: str) -> list[Row]:
    path = run / "evaluations.jsonl"
    if not path.is_file():
        raise UserError(f"{run}: nothing evaluated yet (no evaluations.jsonl)")
    latest: dict[tuple[str, str], Row] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["protocol"] == protocol:
            latest[row["method"], row["task"]] = row
    if not latest:
        raise UserError(f"{path}: no evaluation under protocol {protocol}")
    return list(latest.values())


def _losses(run: Path) -> list[Row]:
    path = run / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [record for record in records if "loss" in record]


def _metrics(row: Row) -> list[str]:
    return [name for name, value in row.items() if isinstance(value, float)]


def markdown(rows: list[Row]) -> str:
    """One line per method and task."""
    shown = ["auc", "hit@5", "hit@10", "ndcg@5", "ndcg@10"]
    lines = ["| method | task | instances | " + " | ".join(m.upper() for m in shown) + " |"]
    lines.append("|---" * (3 + len(shown)) + "|")
    for row in rows:
        values = " | ".join(f"{row[m]:.4f}" for m in shown)
        lines.append(f"| {row['method']} | {row['task']} | {row['instances']} | {values} |")
    return "\n".join(lines)


def draw(rows: list[Row], losses: dict[str, list[Row]], metric: str, path: Path) -> None:
    """Bars of ``metric`` by task and method beside the loss curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (bars, curves) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    width = 0.8 / len(methods)
    for m, method in enumerate(methods):
        values = {row["task"]: row[metric] for row in rows if row["method"] == method}
        places = [t + (m - (len(methods) - 1) / 2) * width for t in range(len(tasks))]
        bars.bar(places, [values.get(task, 0.0) for task in tasks], width * 0.92, label=method)
    bars.set_xticks(range(len(tasks)), tasks)
    bars.set_ylabel(metric.upper())
    bars.set_title(f"{metric.upper()} by task")
    bars.legend(fontsize="small", ncols=2)
    for name, records in losses.items():
        if records:
            curves.plot([r["step"] for r in records], [r["loss"] for r in records], label=name)
    curves.set_xlabel("step")
    curves.set_ylabel("prediction loss")
    curves.set_title("loss")
    curves.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    cli.run(main)
