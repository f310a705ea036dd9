"""Transfer on MovieLens-1M, Beauty, Toys and the synthetic catalogue: the systems of docs/transfer.md compared.

    python -m benchmarks.transfer cold-items methods --log FOLDER --work FOLDER [--out FOLDER] [--quick]

``all`` is every one. ``--log`` holds ml-1m, beauty and toys, each as interactions.parquet, items.parquet and, of ml-1m,
users.parquet; without it the synthetic catalogue is measured alone. What is in ``--work`` is not run again: an
interrupted command goes on where it was. ``--out`` takes transfer_NAME_….md, figures as .png and .svg, and .json with
means and the sums that paired tests need; nothing of a single user. ``--quick``: all too small to mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from benchmarks.hardware import hardware, heading
from benchmarks.markdown import save
from benchmarks.transfer.catalogues import catalogues, films
from benchmarks.transfer.cross_domain import cross_domain
from benchmarks.transfer.figures import FIGURES
from benchmarks.transfer.forgetting import forgetting
from benchmarks.transfer.items import cold_items, items
from benchmarks.transfer.methods import methods
from benchmarks.transfer.setting import Experiment, Setting

LOGS = ("ml-1m", "synthetic")
EXPERIMENTS: dict[str, Experiment] = {
    "methods": methods,
    "forgetting": forgetting,
    "cold-items": cold_items,
    "items": items,
    "catalogues": catalogues,
    "films": films,
    "cross-domain": cross_domain,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*EXPERIMENTS, "all"]
    parser.add_argument("experiments", nargs="+", choices=names, metavar="EXPERIMENT", help=", ".join(names))
    parser.add_argument("--log", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="of pre-training, at most")
    parser.add_argument("--trials", type=int, default=4, help="of each tuning method")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="of test users, for methods")
    parser.add_argument("--users", type=int, help="of a log, at most")
    parser.add_argument("--logs", nargs="+", choices=LOGS, default=list(LOGS), help="those with profiles and content")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    setting = Setting(
        logs=options.log and options.log.resolve(),
        # What so many users are drawn for lies apart: of others all is another.
        work=options.work.resolve() / ("quick" if options.quick else f"of-{options.users}" if options.users else ""),
        workers=options.workers,
        quick=options.quick,
        seeds=2 if options.quick else options.seeds,
        epochs=1 if options.quick else options.epochs,
        trials=1 if options.quick else options.trials,
        folds=tuple(options.folds),
        users=options.users,
        names=tuple(name for name in options.logs if name == "synthetic" or (options.log and not options.quick)),
    )
    names = list(EXPERIMENTS) if "all" in options.experiments else list(dict.fromkeys(options.experiments))
    for name in names:
        lines, kept = EXPERIMENTS[name](setting)
        title = f"{name}: {EXPERIMENTS[name].__doc__}"
        text = [*heading(title, hardware(), f"{setting.seeds} seeds."), _command(name, options), "", *lines]
        print("\n".join([*text, ""]), flush=True)
        if options.out:
            of = "" if len(options.logs) == len(LOGS) else f"_{'-'.join(options.logs)}"
            path = save(options.out, f"transfer_{name}{of}", text, kept)
            if name in FIGURES:
                FIGURES[name](kept, path)
    print(json.dumps({"benchmark": "transfer", **hardware(), "quick": options.quick, "done": names}))


def _command(name: str, options: argparse.Namespace) -> str:
    sizes = "--quick"
    if not options.quick:
        sizes = f"--logs {' '.join(options.logs)} --seeds {options.seeds} --epochs {options.epochs}"
        sizes += f" --users {options.users}" if options.users else ""
        sizes += f" --trials {options.trials}" if name in ("methods", "cross-domain") else ""
        sizes += f" --folds {' '.join(map(str, options.folds))}" if name == "methods" else ""
    return f"    python -m benchmarks.transfer {name} --log FOLDER --work FOLDER {sizes}"


if __name__ == "__main__":
    main()
