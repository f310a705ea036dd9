"""The paper's tables and figures on MovieLens-1M and the synthetic catalogue.

    python -m benchmarks.paper table3 table5 --log FOLDER --work FOLDER [--out FOLDER] [--quick]

``all`` is every one; ``controls`` tells freezing from prompting, ``users`` and ``pretrainings`` vary what they name.
``--log`` (or PPR_DIST_ML1M) holds MovieLens-1M as interactions.parquet and users.parquet; without it the synthetic
catalogue is measured alone. What is in ``--work`` is not run again: an interrupted command goes on where it was.
``--out`` takes paper_NAME_LOG_….md, its figures as .png and .svg, and .json with means and the sums that paired tests
need; nothing of a single user. ``--quick``: every table with settings too small to mean anything, on few users.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
from pathlib import Path

from benchmarks.hardware import hardware, heading
from benchmarks.markdown import save
from benchmarks.paper.figures import draw
from benchmarks.paper.methods import METHODS
from benchmarks.paper.study import Scale, Study, ml_1m, synthetic
from benchmarks.paper.tables import TABLES, scale_words

QUICK = Scale(trials=1, seeds=2, folds=(1,), epochs=1, pretrain_epochs=1, pretrainings=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tables", nargs="+", choices=[*TABLES, "all"], metavar="TABLE", help=", ".join([*TABLES, "all"])
    )
    parser.add_argument("--log", type=Path, default=os.environ.get("PPR_DIST_ML1M"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--trials", type=int, default=Scale.trials)
    parser.add_argument("--seeds", type=int, default=Scale.seeds)
    parser.add_argument("--folds", type=int, nargs="+", default=list(Scale.folds))
    parser.add_argument("--nested", action="store_true", help="search each fold on its own validation users")
    parser.add_argument("--logs", nargs="+", choices=["ml-1m", "synthetic"], default=["ml-1m", "synthetic"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", default=[], help="rows to have")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    sizes = {"trials": options.trials, "seeds": options.seeds, "folds": tuple(options.folds)}
    scale = dataclasses.replace(QUICK if options.quick else Scale(**sizes), nested=options.nested)
    work = options.work.resolve() / ("quick" if options.quick else "")
    logs = [ml_1m(Path(options.log), work, quick=options.quick)] if options.log and "ml-1m" in options.logs else []
    logs += [synthetic(work, quick=options.quick)] if "synthetic" in options.logs else []
    names = list(TABLES) if "all" in options.tables else list(dict.fromkeys(options.tables))
    done = []
    for log in logs:
        study = Study(log, scale, work, options.workers, tuple(options.methods))
        for name in names:
            lines, kept = TABLES[name](study)
            title = f"{name}: {TABLES[name].__doc__} {log.name}"
            text = [*heading(title, hardware(), scale_words(study)), f"    {_command(name, log.name, options)}", ""]
            print("\n".join([*text, *lines, ""]), flush=True)
            done.append(f"{name} {log.name}")
            if options.out:
                kind = "-nested" if scale.nested else ""
                path = save(options.out, f"paper_{name}{kind}_{log.name}", [*text, *lines], kept)
                if name.startswith("figure"):
                    draw(name, kept, title, path)
    print(json.dumps({"benchmark": "paper", **hardware(), "quick": options.quick, "done": done}))


def _command(name: str, log: str, options: argparse.Namespace) -> str:
    sizes = "--quick" if options.quick else f"--trials {options.trials} --seeds {options.seeds}"
    folds = "" if options.quick else f" --folds {' '.join(map(str, options.folds))}"
    folds += " --nested" if options.nested else ""
    methods = f" --methods {shlex.join(options.methods)}" if options.methods else ""
    return f"python -m benchmarks.paper {name} --log FOLDER --work FOLDER --logs {log} {sizes}{folds}{methods}"


if __name__ == "__main__":
    main()
