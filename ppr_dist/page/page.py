"""``report --html``: runs side by side on one page; no request leaves it."""

from __future__ import annotations

import datetime
import itertools
import json
from pathlib import Path
from typing import Any

import jinja2

from ppr_dist.page import chart
from ppr_dist.page.series import Run, Series, curves, options_of, parts_of
from ppr_dist.tracking.panels import SECTIONS

TEMPLATE = Path(__file__).with_name("page.html")
MOST_KEYS = 8
Table = dict[str, Any]
"""caption, head, rows of cells, notes: all text."""


def render(runs: list[Run], evaluations: list[Table]) -> str:
    """The page; ``evaluations``: tables of them, as they are."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["number"] = lambda value: "–" if value is None else chart.number(value)
    return environment.from_string(TEMPLATE.read_text()).render(
        runs=runs,
        summary=summary(runs),
        sections=list(charts(runs)),
        parts=parts(runs),
        evaluations=evaluations,
        options=options(runs),
        machines=machines(runs),
        date=datetime.date.today().isoformat(),
    )


def summary(runs: list[Run]) -> Table:
    """What a run came to, a row each."""
    names = {"users/s": "users_per_s", "targets/s": "targets_per_s", "tokens/s": "tokens_per_s", "step, ms": "step_ms"}
    head = ["run", "kind", "ranks", "steps", "last loss", "best validation", *names, "MFU", "waits for data"]
    rows = []
    for run in runs:
        validated = run.values("validation_ndcg@10")
        waited = run.median("data_wait_share")
        rows.append(
            [
                run.label,
                run.info.get("method") or run.info.get("stage", ""),
                str(run.plan.get("world_size", "–")),
                str(run.records[-1]["step"] if run.records else 0),
                "–" if (loss := run.last("loss")) is None else f"{loss:.4f}",
                f"NDCG@10 {max(validated):.4f}" if validated else "–",
                *(_said(run.median(name)) for name in names.values()),
                _said(run.median("mfu")),
                "–" if waited is None else f"{waited:.1%}",
            ]
        )
    return {"caption": "Medians over the records of a run", "head": head, "rows": rows, "notes": []}


def charts(runs: list[Run]) -> Any:
    """(Section, panels that have something to show) one after the other."""
    for section, panels in SECTIONS.items():
        shown = []
        for panel in panels:
            if panel.stacked:
                continue  # has a picture of its own
            series = curves(panel, runs)
            if series:
                title = f"{panel.title}, {panel.unit or 'value'}, over steps: {', '.join(each.name for each in series)}"
                drawn = chart.line_chart(series, title, from_zero=panel.from_zero)
                shown.append(
                    {"panel": panel, "svg": drawn, "series": series, "data": _points(series), "key": key_of(series)}
                )
        if shown:
            yield section, shown


def key_of(series: list[Series]) -> list[tuple[str, str]]:
    """(Classes of a line, what it is of) where a run has several; of very many the table has them all."""
    alone = len({each.run for each in series}) == 1
    found = {f"s{each.colour % 8} d0" if alone else f"ink d{each.dash % 4}": each.figure for each in series}
    return list(found.items()) if 1 < len(found) <= MOST_KEYS and all(found.values()) else []


def _points(series: list[Series]) -> dict[str, Any]:
    """What the cursor reads: steps, where they lie, and each curve's value there."""
    steps = sorted({step for each in series for step, _ in each.points})
    values = [dict(each.points) for each in series]
    return {
        "steps": [int(step) for step in steps],
        "x": [chart.place(step, steps) for step in steps],
        "series": [
            {"run": each.run, "name": each.name, "values": [_rounded(own.get(step)) for step in steps]}
            for each, own in zip(series, values, strict=True)
        ],
    }


def parts(runs: list[Run]) -> Table | None:
    """Bars of the parts of a step, and the table of what they show; None where no step was sampled."""
    found = {run.label: dict(parts_of(run)) for run in runs}
    found = {label: of for label, of in found.items() if of}
    if not found:
        return None
    names = list(dict.fromkeys(itertools.chain.from_iterable(found.values())))
    whole = {label: sum(of.values()) for label, of in found.items()}
    longest = max(whole.values())
    return {
        "names": names,
        "bars": [
            (label, f"{whole[label]:.3g} ms", chart.bar(list(of.items()), longest, f"{label}: {whole[label]:.3g} ms"))
            for label, of in found.items()
        ],
        "caption": "Milliseconds of a sampled step, median over samples, mean over ranks",
        "head": ["part", *(f"{label}{unit}" for label in found for unit in (", ms", ", share"))],
        "rows": [
            [name, *itertools.chain.from_iterable(_with_share(of.get(name), whole[run]) for run, of in found.items())]
            for name in names
        ]
        + [["sum", *itertools.chain.from_iterable((f"{whole[run]:.2f}", "100.0 %") for run in found)]],
        "notes": [],
    }


def _with_share(value: float | None, whole: float) -> tuple[str, str]:
    return ("–", "–") if value is None else (f"{value:.2f}", f"{100 * value / whole:.1f} %")


def options(runs: list[Run]) -> list[dict[str, Any]]:
    """Every setting of every run, a row each, and whether the runs differ in it; those that do first."""
    of = [options_of(run) for run in runs]
    names = list(dict.fromkeys(itertools.chain.from_iterable(of)))
    rows = []
    for name in names:
        values = [each.get(name, "–") for each in of]
        rows.append({"name": name, "values": values, "differs": len(set(values)) > 1})
    return sorted(rows, key=lambda row: not row["differs"])


def machines(runs: list[Run]) -> Table:
    """Where each run ran: device, versions, whitelisted variables, and where its tables lie."""
    rows: dict[str, list[str]] = {}
    for run in runs:
        told = run.environment
        own = {"device": told.get("device", "–"), "cores": str(told.get("cores", "–"))}
        own |= {f"{name} (version)": value for name, value in told.get("versions", {}).items()}
        own |= told.get("variables", {})
        own["data"] = run.info.get("data", "–")
        for table in run.plan.get("tables", []):
            own[f"table {table['name']}"] = (
                f"{table['rows']:,} × {table['columns']} {table['dtype']}, {table['sharding_type']}, "
                f"{len(table['shards'])} shard(s)"
            )
        for name, value in own.items():
            rows.setdefault(name, ["–"] * len(runs))[run.number] = value
    return {
        "caption": "Machine, versions, data and plan",
        "head": ["", *(run.label for run in runs)],
        "rows": [[name, *values] for name, values in rows.items()],
        "notes": [],
    }


def _said(value: float | None) -> str:
    return "–" if value is None else chart.number(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else json.loads(f"{value:.5g}")
