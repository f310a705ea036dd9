"""``python -m ppr_dist.report --runs RUN [RUN …] --html FILE``: runs side by side, on a page or as table and picture.

``--html`` writes one page that needs nothing beside it: curves, throughput, parts of a step, evaluations,
configurations; ``--out`` a folder with a table of evaluations (Markdown) and a picture. Reads what runs wrote:
evaluations.jsonl (of each method and task the last line counts) and metrics.jsonl. Refuses to set evaluations side by
side whose passports differ in anything but a model's seed (order and ties, split and fold, candidates, whether the
target's time was visible, …), or which are of other data.

A metric that is null in a line is not defined for that model; ``ranked_last`` counts the instances that a line takes
for ranked last because no rank is defined for them.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

from ppr_dist import cli, options
from ppr_dist.errors import UserError
from ppr_dist.files import read_lines, replace
from ppr_dist.passport import difference, fields
from ppr_dist.protocol import check_protocol, is_ranking, negatives, words

Row = dict[str, Any]
SHOWN = ("auc", "hit@5", "hit@10", "ndcg@5", "ndcg@10")
"""Metrics of a ranking that the table has, and the picture's; of a task without a ranking it has all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    runs: list[Path]
    """Runs in the order they are to be shown; for --out they must have been evaluated."""
    out: Path | None = None
    """Folder for report.md and report.png."""
    html: Path | None = None
    """File for the page, which shows evaluations under every protocol."""
    protocol: str = "sampled-99"
    """Protocol of rankings to show in --out; a task that ranks nothing is shown under either."""
    metric: str = "ndcg@10"
    """Metric of the picture; the table has it too."""

    def __post_init__(self) -> None:
        check_protocol(self.protocol)


def main(argv: list[str] | None = None) -> None:
    (arguments,), _ = options.parse("ppr_dist.report", argv, [Arguments])
    if arguments.out is None and arguments.html is None:
        raise UserError("name what to write: --html FILE, --out FOLDER, or both")
    labels = _labels(arguments.runs)
    if arguments.out is not None and arguments.out.exists() and not arguments.out.is_dir():
        raise UserError(f"{arguments.out} is a file; --out takes a folder")
    if arguments.html is not None and arguments.html.is_dir():
        raise UserError(f"{arguments.html} is a folder; --html takes a file")
    rows = _rows(labels, arguments.protocol, required=True) if arguments.out is not None else []
    if arguments.out is not None:
        write_table(rows, labels, arguments.metric, arguments.out)
    if arguments.html is not None:
        write_page(labels, arguments.html)
        print(arguments.html, flush=True)


def write_table(rows: list[Row], labels: dict[Path, str], metric: str, out: Path) -> None:
    """report.md and report.png in the folder ``out``."""
    metrics = list(dict.fromkeys(name for row in rows for name in _metrics(row)))
    if metric not in metrics:
        raise UserError(f"--metric {metric}: no such metric; there are {', '.join(metrics)}")
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(rows, metric)
    (out / "report.md").write_text(text + "\n")
    draw(rows, {label: _losses(run) for run, label in labels.items()}, metric, out / "report.png")
    print(text)
    print(f"\n{out / 'report.md'}, {out / 'report.png'}", flush=True)


def write_page(labels: dict[Path, str], path: Path) -> None:
    """One page of everything that runs tell."""
    from ppr_dist.page.page import render
    from ppr_dist.page.series import read_run

    runs = [read_run(run, label, number) for number, (run, label) in enumerate(labels.items())]
    evaluations, shown = [], set[str]()
    for protocol in _protocols(labels):
        # What ranks nothing comes with either protocol, and is shown with the first.
        rows = [row for row in _rows(labels, protocol, required=False) if row["where"] not in shown]
        shown |= {row["where"] for row in rows}
        if rows:
            head, cells, notes = table(rows, SHOWN[-1])
            caption = f"Evaluation {words(protocol)}"
            evaluations.append({"caption": caption, "head": head, "rows": cells, "notes": notes})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, render(runs, evaluations))


def _protocols(labels: dict[Path, str]) -> list[str]:
    """Of the rankings that were evaluated: sampled ones by their number, then the whole catalogue."""
    rows = [row for run in labels for row in read_lines(run / "evaluations.jsonl") if isinstance(row, dict)]
    said = {protocol for protocol in (str(row.get("protocol")) for row in rows) if is_ranking(protocol)}
    return sorted(said, key=lambda protocol: negatives(protocol) or math.inf) or ["full"]


def _rows(labels: dict[Path, str], protocol: str, *, required: bool) -> list[Row]:
    """Evaluations of all runs under ``protocol``, which compare; ``required``: each run has some."""
    rows = [row for run, label in labels.items() for row in _evaluations(run, label, protocol, required=required)]
    check_alike(rows)
    return rows


def _labels(runs: list[Path]) -> dict[Path, str]:
    """A name for each run: its folder's, or the path as given where two folders have one name."""
    places = [run.resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if not run.is_dir():
            raise UserError(f"{run}: no such folder")
        if places.count(place) > 1:
            raise UserError(f"--runs names {run} twice")
    names = [place.name for place in places]
    return {run: name if names.count(name) == 1 else str(run) for run, name in zip(runs, names, strict=True)}


def _evaluations(run: Path, label: str, protocol: str, *, required: bool) -> list[Row]:
    """The last evaluation of each method and task under ``protocol``; says so where there were others before it."""
    path = run / "evaluations.jsonl"
    if not path.is_file() and required:
        raise UserError(f"{run}: nothing evaluated yet (no evaluations.jsonl)")
    latest: dict[tuple[str, str], Row] = {}
    before: dict[tuple[str, str], int] = {}
    for number, row in enumerate(read_lines(path), 1):
        try:
            key = row["method"], row["task"]
            # A task that ranks nothing has a protocol of its own, whichever is to be shown.
            if row["protocol"] == protocol or not is_ranking(row["protocol"]):
                before[key] = before.get(key, -1) + 1
                latest[key] = {**row, "label": label, "where": f"{path}:{number}"}
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: line {number} is not an evaluation ({error!r})") from error
    if not latest and required:
        raise UserError(f"{path}: no evaluation under protocol {protocol}")
    again = ", ".join(f"{method} {task} ({count + 1} times)" for (method, task), count in before.items() if count)
    if again:
        print(f"ppr_dist: {run}: evaluated more than once under {protocol}, the last counts: {again}", file=sys.stderr)
    return list(latest.values())


def check_alike(rows: list[Row]) -> None:
    """Raise :class:`UserError` where two rows' figures do not compare; ``rows`` as evaluate writes them."""
    first_of: dict[str, Row] = {}
    for row in rows:
        for key in ("passport", "data"):
            if key not in row:
                raise UserError(f"{row['where']}: written by another version, which left out {key!r}; evaluate again")
        first = first_of.setdefault(row["task"], row)
        if name := difference(first["passport"], row["passport"]):
            here, there = (dict(fields(each["passport"])).get(name) for each in (row, first))
            raise UserError(
                f"{row['where']} has another {name} ({here}) than {first['where']} ({there}): "
                "their figures do not compare"
            )
    for row in rows:
        if row["data"] != rows[0]["data"]:
            raise UserError(
                f"{row['where']} is of another data set ({row['data']}) than {rows[0]['where']} ({rows[0]['data']}): "
                "their figures do not compare"
            )


def _losses(run: Path) -> list[Row]:
    return [record for record in read_lines(run / "metrics.jsonl") if "loss" in record]


def _metrics(row: Row) -> list[str]:
    return [name for name, value in row.items() if value is None or isinstance(value, float)]


def table(rows: list[Row], metric: str) -> tuple[list[str], list[list[str]], list[str]]:
    """Head, one line per run, method and task, and notes: why a figure is not defined, what counts in its place."""
    ranked = [row for row in rows if not row.keys().isdisjoint(SHOWN)]
    others = [name for row in rows if row not in ranked for name in _metrics(row)]
    shown = list(dict.fromkeys([*(SHOWN if ranked else ()), *others, metric]))
    lines = [
        [row["label"], row["method"], str(row["step"]), row["task"], str(_instances(row))]
        + [_cell(row, m) for m in shown]
        for row in rows
    ]
    notes = []
    if any(_cell(row, m) == "not defined" for row in rows for m in shown):
        alike = "without prompt and profile encoder a model scores all items alike before a user's first click"
        notes.append(f"not defined: {alike}.")
    for row in rows:
        if (count := row.get("ranked_last", 0)) and count < _instances(row):
            counts = f"counts {count} of its {row['instances']} instances, the zero-shot ones, as ranked last"
            notes.append(f"{row['label']}, {row['method']}: {row['task']} {counts}.")
    return ["run", "method", "step", "task", "instances", *(m.upper() for m in shown)], lines, notes


def _instances(row: Row) -> Any:
    """What the figures are means over: ranked instances, or users."""
    return row["instances"] if "instances" in row else row["users"]


def markdown(rows: list[Row], metric: str) -> str:
    """:func:`table` as Markdown."""
    head, lines, notes = table(rows, metric)
    text = [f"| {' | '.join(cells)} |" for cells in (head, *lines)]
    text.insert(1, "|---" * len(head) + "|")
    return "\n".join([*text, "", *notes]).rstrip()


def _cell(row: Row, metric: str) -> str:
    if metric not in row:
        return ""
    return "not defined" if row[metric] is None else f"{row[metric]:.4f}"


def draw(rows: list[Row], losses: dict[str, list[Row]], metric: str, path: Path) -> None:
    """Bars of ``metric`` by task, run and method beside the loss curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (bars, curves) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    series = list(dict.fromkeys((row["label"], row["method"]) for row in rows))
    width = 0.8 / len(series)
    for n, (label, method) in enumerate(series):
        own = [row for row in rows if (row["label"], row["method"]) == (label, method)]
        values = {row["task"]: row[metric] for row in own if row.get(metric) is not None}
        places = [tasks.index(task) + (n - (len(series) - 1) / 2) * width for task in values]
        name = label if label == method else f"{label}: {method}"
        bars.bar(places, list(values.values()), width * 0.92, label=name)
    bars.set_xticks(range(len(tasks)), tasks)
    bars.set_ylabel(metric.upper())
    bars.set_title(f"{metric.upper()} by task")
    bars.margins(y=0.3)  # room for the legend
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
