"""``python -m ppr_dist.dashboard --entity NAME``: make the throughput dashboard in a project at Weights & Biases.

A saved view of the project, with the panels of ppr_dist/tracking/panels.py; whoever opens it sees all of the project's
runs, grouped by experiment (logging.experiment). Each time it is run it makes another one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ppr_dist import cli, options
from ppr_dist.errors import UserError
from ppr_dist.tracking.panels import SECTIONS, Panel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    entity: str
    """User or team that the project belongs to."""
    project: str = "ppr_dist"
    """Project (logging.wandb_project of the runs)."""
    name: str = "Throughput"
    """Name of the view."""
    show: bool = False
    """Print sections, panels and names of the logged figures, and ask no server."""


def main(argv: list[str] | None = None) -> None:
    (arguments,), _ = options.parse("ppr_dist.dashboard", argv, [Arguments])
    if arguments.show:
        for section, panels in SECTIONS.items():
            print(section)
            for panel in panels:
                unit = f" ({panel.unit})" if panel.unit else ""
                print(f"  {panel.title}{unit}: {panel.pattern or ', '.join(panel.keys)}")
        return
    view = workspace(arguments)
    try:
        view.save()
    except Exception as error:  # no key, no network, no such entity: each library has its own
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"W&B did not take the dashboard: {said}") from error
    print(view.url, flush=True)


def workspace(arguments: Arguments) -> Any:
    """The view as wandb-workspaces describes it; asks no server."""
    try:
        import wandb_workspaces.expr as expr
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise UserError(f"{error}: pip install wandb-workspaces") from error

    def plot(panel: Panel) -> Any:
        return reports.LinePlot(
            title=panel.title,
            y=list(panel.keys),
            metric_regex=panel.pattern,
            title_y=panel.unit or None,
            plot_type="stacked-area" if panel.stacked else "line",
        )

    return workspaces.Workspace(
        entity=arguments.entity,
        project=arguments.project,
        name=arguments.name,
        runset_settings=workspaces.RunsetSettings(groupby=[expr.Metric("Group")]),  # logging.experiment
        sections=[
            workspaces.Section(name=name, panels=[plot(panel) for panel in panels], is_open=True)
            for name, panels in SECTIONS.items()
        ],
    )


if __name__ == "__main__":
    cli.run(main)
