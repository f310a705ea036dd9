"""Does a fractal expansion of a log keep the log's statistics, and what does a step cost at a million items of it?

    python -m benchmarks.fractal [--log FOLDER] [--factor-users 25 --factor-items 20] [--work FOLDER] [--out results.md]

Four stages, each a process of its own: *expand* the log in ``--log`` (interactions.parquet and users.parquet; without
it a synthetic one of 2,000 users and 500 items); *compare* the statistics that the expansion says it keeps;
*prepare* the expansion; *train* on it (128 users × 50 targets, d 64, 2 layers, sampled softmax, 512 + 256 candidates)
and, in turns within one process, on the same users with every click replaced by an item drawn uniformly from a
catalogue of the same size. Finished stages stay in ``--work``, so that ``--until STAGE`` can stop and a later call
goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.fractal_statistics import compare
from benchmarks.hardware import hardware, heading
from ppr_dist.tracking.machine import peak_rss

USERS, LENGTH, DIM = 128, 50, 64
ROUNDS, STEPS, WARM_UP = 5, 10, 3  # steps of one kind in a row, the first of them uncounted
SYNTHETIC = ["--users", "2000", "--items", "500"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, help="folder of the log to expand; default: a synthetic one")
    parser.add_argument("--factor-users", type=int, default=25)
    parser.add_argument("--factor-items", type=int, default=20)
    parser.add_argument("--work", type=Path, help="folder for what the stages write; default: a temporary one")
    parser.add_argument("--until", choices=STAGES, default="train", help="last stage to run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        result = STAGES[options.one](options)
        result["peak_rss_bytes"] = peak_rss()
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as temporary:
        result = {"benchmark": "fractal", **hardware(), **_stages(options, options.work or Path(temporary))}
    if options.out and "train" in result:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _stages(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run the stages that ``work`` does not hold yet; return what each said."""
    work = work / f"{options.log.name if options.log else 'synthetic'}-{options.factor_users}x{options.factor_items}"
    work.mkdir(parents=True, exist_ok=True)
    log = options.log or work / "log"
    if not log.is_dir():
        argv = ["-m", "ppr_dist.data.synthetic", "--out", str(log), *SYNTHETIC]
        subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL)
    said = {}
    for stage in STAGES:
        done = work / f"{stage}.json"
        if not done.exists():
            argv = ["-m", "benchmarks.fractal", "--one", stage, "--log", str(log), "--work", str(work)]
            argv += ["--factor-users", str(options.factor_users), "--factor-items", str(options.factor_items)]
            out = subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.PIPE, text=True).stdout
            done.write_text(out.splitlines()[-1])
        said[stage] = json.loads(done.read_text())
        print(stage, said[stage], file=sys.stderr, flush=True)
        if stage == options.until:
            break
    return said


def _config(options: argparse.Namespace) -> Any:
    from ppr_dist.data.synthetic.fractal_base import FractalConfig

    return FractalConfig(factor_users=options.factor_users, factor_items=options.factor_items)


def _expand(options: argparse.Namespace) -> dict[str, Any]:
    from ppr_dist.data.synthetic.fractal import expand

    files, out = _files(options.log), options.work / "expansion"
    start = time.perf_counter()
    rows = expand(*files, _config(options), out, overwrite=True)
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in out.iterdir())
    return {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds, "file_bytes": size}


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    from ppr_dist.data.synthetic.fractal import expand
    from ppr_dist.data.synthetic.fractal_base import FractalConfig

    # 1 × 1: the log itself, numbered as the expansion numbers it.
    expand(*_files(options.log), FractalConfig(factor_users=1, factor_items=1), options.work / "base", overwrite=True)
    start = time.perf_counter()
    found = compare(options.work / "base", options.work / "expansion", _config(options), options.work / "spill")
    return found | {"seconds": time.perf_counter() - start}


def _prepare(options: argparse.Namespace) -> dict[str, Any]:
    from ppr_dist.data.prepare.config import PrepareConfig
    from ppr_dist.data.prepare.pipeline import prepare

    start = time.perf_counter()
    limits = PrepareConfig(memory_limit="2GB")
    manifest = prepare(*_files(options.work / "expansion"), options.work / "data", limits, overwrite=True)
    seconds = time.perf_counter() - start
    splits = {name: {"users": split.users, "events": split.events} for name, split in manifest.splits.items()}
    return {"items": manifest.items, "splits": splits, "seconds": seconds}


def _train(options: argparse.Namespace) -> dict[str, Any]:
    """Median step on the expansion and on a uniform catalogue, ids per step, and the share of slots that are real."""
    from benchmarks.batches import pretraining
    from ppr_dist.build_model import untuned_model
    from ppr_dist.config import Config, Model, Stream, Train
    from ppr_dist.model.backbones import sasrec
    from ppr_dist.objectives import softmax
    from ppr_dist.parallel.apply import parallelize
    from ppr_dist.parallel.distributed import distributed_context
    from ppr_dist.parallel.prefetch import fetch
    from ppr_dist.trainer import train_step

    config = Config(
        model=Model(dim=DIM, max_length=LENGTH),
        stream=Stream(shuffle_shards=1),
        train=Train(global_batch_size=USERS),
        parts={
            "sasrec": sasrec.Settings(layers=2, heads=2, ffn_multiple=1),
            "softmax": softmax.Settings(uniform_negatives=512, in_batch_per_user=2),
        },
    )
    with distributed_context() as context:
        run, loader = pretraining(options.work / "data", config, context)
        items, objectives = run.manifest.items, loader.collator.objectives
        model = untuned_model(config, run.info.catalogue_for(config))
        parallel = parallelize(run.info.table_sizes(config), model, config, context)
        uniform = np.full(items, 1 / items, np.float32)
        collators = {"fractal": loader.collator}
        collators["uniform"] = dataclasses.replace(loader.collator, probability=uniform)
        rng = np.random.default_rng(0)
        rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in collators}
        seen: dict[str, list[np.ndarray]] = {kind: [] for kind in collators}
        # Of a small log one epoch has fewer steps than are measured.
        stream = (
            step for epoch in itertools.count() for step in loader.stream.batches(epoch, range(loader.stream.steps))
        )
        for _ in range(ROUNDS):
            blocks = [next(stream) for _ in range(STEPS)]
            for kind, collator in collators.items():
                for number, (step, total, users) in enumerate(blocks):
                    if kind == "uniform":
                        users = dataclasses.replace(users, items=rng.integers(0, items, len(users.items)))
                    batch = collator(users, epoch=0, step=step, global_users=total)
                    start = time.perf_counter()
                    train_step(parallel, fetch(batch, parallel.embeddings, objectives), objectives)
                    seconds = time.perf_counter() - start
                    if number >= WARM_UP:
                        history, ids, targets = batch.history, len(batch.item_ids), len(batch.targets)
                        slots = sum(bucket.sequences * bucket.width for bucket in history.buckets)
                        real = int(history.lengths.sum())
                        rows[kind].append({"ms": 1e3 * seconds, "ids": ids, "targets": targets, "real": real / slots})
                        seen[kind].append(batch.item_ids.numpy())
    found: dict[str, Any] = {"items": items, "steps": len(rows["fractal"])}
    for kind, steps in rows.items():
        found[kind] = {"step_ms": median(row["ms"] for row in steps)}
        found[kind] |= {name: mean(row[name] for row in steps) for name in ("ids", "targets", "real")}
        found[kind]["ids_of_all_steps"] = len(np.unique(np.concatenate(seen[kind])))
    found["step_uniform_over_fractal"] = found["uniform"]["step_ms"] / found["fractal"]["step_ms"]
    return found


STAGES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "expand": _expand,
    "compare": _compare,
    "prepare": _prepare,
    "train": _train,
}


def _files(folder: Path) -> tuple[str, str]:
    return str(folder / "interactions.parquet"), str(folder / "users.parquet")


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    expanded, compared, prepared, trained = (result[stage] for stage in STAGES)
    factors = f"--factor-users {options.factor_users} --factor-items {options.factor_items}"
    gigabytes = {stage: result[stage]["peak_rss_bytes"] / 1e9 for stage in STAGES}
    lines = [
        *heading("A fractal expansion: cost, what it keeps, and a step over it", result),
        f"    python -m benchmarks.fractal {'--log FOLDER ' if options.log else ''}{factors} --work FOLDER",
        "",
        "| stage | seconds | peak RSS, GB | |",
        "|---|---|---|---|",
        f"| expand | {expanded['seconds']:.0f} | {gigabytes['expand']:.2f} | {expanded['rows']:,} clicks, "
        f"{expanded['rows_per_s'] / 1e6:.2f} M/s, {expanded['file_bytes'] / 1e9:.2f} GB on disk |",
        f"| compare | {compared['seconds']:.0f} | {gigabytes['compare']:.2f} | |",
        f"| prepare | {prepared['seconds']:.0f} | {gigabytes['prepare']:.2f} | {prepared['items']:,} items |",
        f"| train | | {gigabytes['train']:.2f} | {STEPS * ROUNDS * 2} steps |",
        "",
        "| statistic | log | expansion |",
        "|---|---|---|",
        *(f"| {n} | {_number(a)} | {_number(compared['expansion'][n])} |" for n, a in compared["log"].items()),
        "",
        "Singular values over the largest; *product*: those of P ⊗ R, which the expansion has in expectation.",
        "",
        "| | " + " | ".join(f"σ{k}" for k in range(2, 2 + len(compared["singular"]["log"]))) + " |",
        "|---" * (1 + len(compared["singular"]["log"])) + "|",
        *(f"| {name} | " + " | ".join(f"{v:.3f}" for v in row) + " |" for name, row in compared["singular"].items()),
        "",
        "Total variation distance of an attribute's shares between log and expansion (0 = the same, 1 = disjoint).",
        "",
        "| attribute | of users | of clicks | of clicks on one base item, mean over clicks |",
        "|---|---|---|---|",
        *(
            f"| {name} | {row['users']:.4f} | {row['clicks']:.4f} | {row['clicks_on_an_item']:.4f} |"
            for name, row in compared["attributes"].items()
        ),
        "",
        f"A training step, {trained['items']:,} items (median of {trained['steps']} steps):",
        "",
        "| clicks | step, ms | distinct ids | … of all steps together | targets | real slots |",
        "|---|---|---|---|---|---|",
        *(
            f"| {kind} | {r['step_ms']:.1f} | {r['ids']:,.0f} | {r['ids_of_all_steps']:,} | {r['targets']:,.0f} "
            f"| {r['real']:.1%} |"
            for kind, r in ((kind, trained[kind]) for kind in ("fractal", "uniform"))
        ),
        "",
        f"Step on the uniform catalogue over the fractal one: {trained['step_uniform_over_fractal']:.2f}.",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or value > 1 else f"{value:.3f}"


if __name__ == "__main__":
    main()
