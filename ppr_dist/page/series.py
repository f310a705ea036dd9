"""A run as the page sees it, and its curves."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import Any

import yaml

from ppr_dist.errors import UserError
from ppr_dist.files import read_lines
from ppr_dist.tracking.panels import Panel
from ppr_dist.tracking.part_names import PARTS, REST, key

MOST_POINTS = 240
"""Of a curve; one with more shows means of neighbours."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a run's folder says."""

    label: str
    number: int
    """Its place among the runs of the page, which is its colour."""
    info: dict[str, Any]
    config: dict[str, Any]
    plan: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]

    def values(self, name: str) -> list[float]:
        return [value for _, value in self.points(name)]

    def points(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of the numbers that were logged under ``name``."""
        found = [(record["step"], record.get(name)) for record in self.records]
        numbers = [(step, v) for step, v in found if isinstance(v, int | float) and not isinstance(v, bool)]
        return [(step, float(v)) for step, v in numbers if math.isfinite(v)]

    def median(self, name: str) -> float | None:
        values = self.values(name)
        return statistics.median(values) if values else None

    def last(self, name: str) -> float | None:
        values = self.values(name)
        return values[-1] if values else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A curve of a panel."""

    run: int
    """Number of its run."""
    colour: int
    dash: int
    """Which pattern its line has."""
    name: str
    figure: str
    """What of the run it is, where a panel has several."""
    points: list[tuple[float, float]]

    def summary(self) -> list[float]:
        """First, least, greatest and last value."""
        values = [value for _, value in self.points]
        return [values[0], min(values), max(values), values[-1]]


def read_run(folder: Path, label: str, number: int) -> Run:
    """Raises :class:`UserError` where ``folder`` holds no run."""
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder}: not a run (no run.json)")

    def body(name: str) -> dict[str, Any]:
        file = folder / f"{name}.json"
        try:
            return dict(json.loads(file.read_text())) if file.is_file() else {}
        except ValueError as error:
            raise UserError(f"{file}: cannot be read ({error})") from error

    config = folder / "config.yaml"
    return Run(
        label=label,
        number=number,
        info=body("run"),
        config=yaml.safe_load(config.read_text()) if config.is_file() else {},
        plan=body("plan"),
        environment=body("environment"),
        records=[record for record in read_lines(folder / "metrics.jsonl") if "step" in record],
    )


def curves(panel: Panel, runs: list[Run]) -> list[Series]:
    """The curves of a panel; those of several runs have the run's colour, those of one each its own."""
    found = []
    for run in runs:
        names = panel.found(dict.fromkeys(name for record in run.records for name in record))
        with_points = [(name, points) for name in names if (points := run.points(name))]
        for number, (name, points) in enumerate(with_points):
            own = short_name(name, panel) if len(with_points) > 1 else ""
            found.append(
                Series(
                    run=run.number,
                    colour=run.number if len(runs) > 1 else number,
                    dash=number if len(runs) > 1 else 0,
                    name=" ".join(filter(None, (run.label if len(runs) > 1 or not own else "", own))),
                    figure=own,
                    points=thinned(points),
                )
            )
    return found


def short_name(name: str, panel: Panel) -> str:
    """A figure's name among those of its panel."""
    first, *rest = name.split("/")
    if not panel.pattern:
        return name
    return f"rank {rest[0]}" if first == "rank" else rest[-1]


def thinned(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS: means of as many neighbours as it takes."""
    each = -(-len(points) // MOST_POINTS)
    groups = [points[first : first + each] for first in range(0, len(points), each)]
    return [(group[-1][0], statistics.fmean(value for _, value in group)) for group in groups]


def parts_of(run: Run) -> list[tuple[str, float]]:
    """Milliseconds of each part of a step, the median over samples; empty where none was sampled."""
    found = [(name, run.median(key(name))) for name in (*PARTS, REST)]
    return [(name, value) for name, value in found if value is not None]


def options_of(run: Run) -> dict[str, str]:
    """Every setting by name, as text."""
    flat = {}
    for section, settings in run.config.items():
        for name, value in settings.items() if isinstance(settings, dict) else ():
            flat[f"{section}.{name}"] = json.dumps(value) if not isinstance(value, str) else value
    return flat
