"""Is each rival the function that public implementations of it are, and does it learn as well?

    python -m benchmarks.rivals --log FOLDER --work FOLDER [--rivals NAME …] [--seeds 3] [--out results.md]

Public implementations get environments of their own in ``--work``, from benchmarks/peers/NAME.txt.

Functions: random weights of the other implementation are put into ppr_dist's model; user vectors and the item vectors'
gradient under one loss are compared (benchmarks/rivals/same_function.py). SASRec is RecTools' pre-norm layers under a
causal mask: RecTools' own SASRec layers are the authors', which ppr_dist does not have.

Training: ``--log`` (or PPR_DIST_ML1M) holds MovieLens-1M's interactions.parquet. Both train on the same users' clicks
but their last two, as :data:`RIVALS` says, and are ranked by the same lines (benchmarks/rivals/ranks.py) among all
items that training saw, the clicks before the target removed, ties against the model. The epoch is that of a run's best
validation NDCG@10 (last but one click), the test target the last click. Differences are paired by user
(benchmarks/statistics.py). ``--seeds 0``: functions alone.

One process at a time, one thread. What is in ``--work`` is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import environment
from benchmarks.hardware import hardware, heading
from benchmarks.peers.__main__ import number
from benchmarks.statistics import at_cutoff, compare, sums

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "benchmarks" / "peers"
FUNCTIONS = {"rectools": ("SASRec", "HSTU"), "recbole": ("GRU4Rec", "BERT4Rec")}
"""Whose function each rival is compared with."""
USERS, LENGTH = 1_000, 20
SHARED: dict[str, Any] = {"dim": 64, "layers": 2, "heads": 2, "length": LENGTH, "dropout": 0.2}
SHARED |= {"batch": 32, "lr": 2e-3}
"""``batch``: users whose contexts are trained together; ``lr``: Adam's, of all parameters, tables included."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rival:
    backbone: str
    system: str
    """Whose the other implementation is."""
    loss: str
    epochs: tuple[int, ...]
    """After which is ranked."""
    ppr_dist: dict[str, Any]
    """The backbone's section."""
    other: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of RecTools' model."""
    same_but: str
    """What is not the same."""


TRANSFORMER = {"layers": 2, "heads": 2}
SASREC = Rival(
    backbone="sasrec",
    system="rectools",
    loss="softmax",
    epochs=tuple(range(5, 26, 5)),
    ppr_dist=TRANSFORMER | {"ffn_multiple": 1, "positions": "last", "attention_dropout": 0.2},
    same_but="RecTools, as the authors' code, normalises queries alone and adds the residual to them, has ReLU, "
    "and no dropout on attention's output; pads to the left and lets attention see it",
)
RIVALS = {
    "SASRec, softmax": SASREC,
    "BERT4Rec": Rival(
        backbone="bert4rec",
        system="rectools",
        loss="softmax",
        epochs=tuple(range(20, 101, 20)),
        ppr_dist=TRANSFORMER | {"mask": 0.2, "attention_dropout": 0.2},
        other={"mask_prob": 0.2},
        same_but="RecTools' layers are normalised before, ppr_dist's behind their residuals, with the projection of "
        "the paper's eq. 7; RecTools masks each click with probability 0.2 (of those 8 in 10 by the mask), ppr_dist a "
        "fifth of the clicks, and the last alone in 1 of 10 histories",
    ),
    "GRU4Rec": Rival(
        backbone="gru4rec",
        system="recbole",
        loss="softmax",
        epochs=tuple(range(4, 21, 4)),
        ppr_dist={"layers": 1, "hidden": 64},
        same_but="RecBole's GRU has no biases and no dropout on its states, and a step has as many contexts drawn from "
        "all users as ppr_dist's has of whole users",
    ),
    "HSTU": Rival(
        backbone="hstu",
        system="rectools",
        loss="softmax",
        epochs=tuple(range(5, 26, 5)),
        ppr_dist=TRANSFORMER | {"times": False},
        other={"relative_time_attention": False},
        same_but="RecTools counts positions from the last click, and drops out before the output projection",
    ),
    "SASRec, BCE": dataclasses.replace(SASREC, loss="bce", epochs=tuple(range(20, 101, 20))),
}
METRICS = ("ndcg@10", "hit@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=os.environ.get("PPR_DIST_ML1M"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, metavar="NAME", default=list(RIVALS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.log is None and options.seeds:
        parser.error("--log or PPR_DIST_ML1M must name the folder with interactions.parquet")
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"benchmark": "rivals", **hardware(), "functions": _functions(work)}
    if options.seeds:
        result |= _learnt(options, work)
    if options.out:
        options.out.write_text("\n".join(_markdown(result, options)) + "\n")
    print(json.dumps(result))


def _functions(work: Path) -> dict[str, dict[str, Any]]:
    """Largest relative differences of user vectors and gradients, by rival."""
    from benchmarks.rivals.same_function import compare as differences

    folder, found = work / "functions", {}
    folder.mkdir(exist_ok=True)
    for system, names in FUNCTIONS.items():
        if not all((folder / f"{name}.npz").is_file() for name in names):
            python = environment(PEERS / f"{system}.txt", work)
            argv = [str(python), "-m", f"benchmarks.rivals.hand_over_{system}", str(folder)]
            subprocess.run(argv, cwd=work, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=sys.stderr, check=True)
        for name in names:
            found[name] = {"system": system, "version": _version(system), **differences(name, folder)}
    return found


def _learnt(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Train and compare."""
    data, log = _prepare(options.log.resolve(), work)
    for system in dict.fromkeys(["ppr_dist", *(RIVALS[name].system for name in options.rivals)]):
        _train(system, options, work, data, log)
    rows = [_row(name, range(options.seeds), work) for name in options.rivals]
    with np.load(log) as kept:
        counts = {"users": len(kept["offsets"]) - 1, "items": int(kept["catalogue"]), "clicks": len(kept["items"])}
    return {**counts, "seeds": options.seeds, "rows": rows}


def _prepare(log: Path, work: Path) -> tuple[Path, Path]:
    """``USERS`` users, drawn by hash, with their last clicks: so that all trained contexts fit the models' length."""
    import duckdb

    data, numbered, clicks = work / "data", work / "log.npz", work / "interactions.parquet"
    if not numbered.is_file():
        work.mkdir(parents=True, exist_ok=True)
        duckdb.sql(f"""
            COPY (
                WITH chosen AS (SELECT DISTINCT user_id FROM '{log / "interactions.parquet"}'
                                ORDER BY md5(user_id::VARCHAR) LIMIT {USERS})
                SELECT user_id, item_id, position FROM '{log / "interactions.parquet"}' JOIN chosen USING (user_id)
                QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY position DESC) <= {LENGTH + 3}
            ) TO '{clicks}' (FORMAT parquet)
        """)
        from ppr_dist.library import prepare

        prepare(interactions=clicks, out=data, min_item_count=5)
        number(data, numbered)
    return data, numbered


def _train(system: str, options: argparse.Namespace, work: Path, data: Path, log: Path) -> None:
    """Train what ``work`` still lacks of a system, seed after seed."""
    asked = []
    for seed in range(options.seeds):
        for name in options.rivals:
            rival, out = RIVALS[name], _found(name, system, seed, work)
            if system in ("ppr_dist", rival.system) and not out.is_file():
                out.parent.mkdir(parents=True, exist_ok=True)
                places = {"data": str(data), "log": str(log), "out": str(out)}
                asked.append({**SHARED, **dataclasses.asdict(rival), "seed": seed, **places})
    if not asked:
        return
    python = sys.executable if system == "ppr_dist" else environment(PEERS / f"{system}.txt", work)
    alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    folder = work / system
    folder.mkdir(exist_ok=True)
    argv = [str(python), "-m", f"benchmarks.rivals.train_{system}", json.dumps(asked)]
    print(f"--- {system}: {len(asked)} trainings; {folder}/log.txt", file=sys.stderr, flush=True)
    with (folder / "log.txt").open("w") as said:
        subprocess.run(argv, cwd=folder, env=os.environ | alone, stdout=said, stderr=said, check=True)


def _found(name: str, system: str, seed: int, work: Path) -> Path:
    return work / "runs" / name.replace(", ", "-") / f"{system}-{seed}.npz"


@dataclasses.dataclass(frozen=True)
class Run:
    """Of one system and seed."""

    curve: dict[int, tuple[float, float]]
    """NDCG@10 of validation and test after so many epochs."""
    best: int
    test: np.ndarray
    """Ranks at the best epoch, [users]."""
    parameters: int
    seconds: float


def _read(path: Path) -> Run:
    with np.load(path) as kept:
        epochs = kept["epochs"].tolist()
        curve = {
            epoch: (_mean_ndcg(validation), _mean_ndcg(test))
            for epoch, validation, test in zip(epochs, kept["validation"], kept["test"], strict=True)
        }
        best = max(range(len(epochs)), key=lambda at: curve[epochs[at]][0])
        return Run(curve, epochs[best], kept["test"][best], int(kept["parameters"]), float(kept["seconds"]))


def _mean_ndcg(ranks: np.ndarray) -> float:
    return float(at_cutoff(ranks, "ndcg@10").mean())


def _version(system: str) -> str:
    """As the lock has it."""
    lines = (PEERS / f"{system}.txt").read_text().splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith(f"{system}=="))


def _row(name: str, seeds: Sequence[int], work: Path) -> dict[str, Any]:
    rival = RIVALS[name]
    runs = {
        system: [_read(_found(name, system, seed, work)) for seed in seeds] for system in ("ppr_dist", rival.system)
    }
    version = _version(rival.system)
    row: dict[str, Any] = {"rival": name, "system": rival.system, "version": version}
    for system, each in runs.items():
        row[system] = {
            "parameters": each[0].parameters,
            "seconds": [run.seconds for run in each],
            "best_epochs": [run.best for run in each],
            "curves": [run.curve for run in each],
        }
    for metric in METRICS:
        gains = {system: np.stack([at_cutoff(run.test, metric) for run in each]) for system, each in runs.items()}
        of = sums(gains, np.arange(len(gains["ppr_dist"][0])))
        found = compare(of, "ppr_dist", rival.system)
        reach = found.reach
        row[metric] = {
            "means": of.means,
            "deviations": of.seed_deviations,
            "by_seed": {system: each.mean(1).tolist() for system, each in gains.items()},
            "difference": found.difference,
            "interval": [found.difference - reach, found.difference + reach],
            "p": found.p,
            "within_noise": abs(found.difference) <= max(reach, *of.seed_deviations.values()),
        }
    return row


ALL_DIFFER = """\
Not the same anywhere: first values (RecTools and RecBole Xavier, ppr_dist N(0, 0.02²)); ppr_dist scales item vectors by
√d before the layers (SASRec, HSTU); RecTools' Adam has β₂ 0.98, the others 0.999; the draws."""


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> Iterator[str]:
    yield from heading("Rivals beside public implementations", result, "One thread.")
    words = f" --seeds {options.seeds}"
    if options.seeds:
        words += " --rivals " + " ".join(f"'{name}'" for name in options.rivals)
    yield f"    python -m benchmarks.rivals --log FOLDER --work FOLDER{words}"
    yield from ("", "## The same function", "")
    yield (
        "Weights drawn at random by the other implementation, put into ppr_dist's model: largest difference, relative "
        "to the largest value, in float32. Not seen: parameters of which 5 % more make no difference of 1e-4."
    )
    yield from (
        "",
        "| rival | the other | user vectors | gradient of item vectors | parameters not seen |",
        "|---|---|---|---|---|",
    )
    for name, of in result["functions"].items():
        figures = f"{of['user vectors']:.1e} | {of['gradient']:.1e} | {', '.join(of['unseen']) or 'none'}"
        yield f"| {name} | {of['system']} {of['version']} | {figures} |"
    if "rows" in result:
        yield from _learnt_as_markdown(result)


def _learnt_as_markdown(result: dict[str, Any]) -> Iterator[str]:
    s, rows = SHARED, result["rows"]
    yield from ("", "## Trained alike", "")
    yield (
        f"{result['users']:,} users of MovieLens-1M with their last {LENGTH + 3} clicks, {result['items']:,} items; "
        f"{result['seeds']} seeds. Width {s['dim']}, {s['layers']} layers and {s['heads']} heads (GRU4Rec: 1 layer, "
        f"64 units), length {LENGTH}, dropout {s['dropout']}, {s['batch']} users a step, Adam at {s['lr']:g} for "
        "tables and all else. Test: each user's last click, ranked by the same lines among all items that training "
        "saw, clicks before it removed, ties against the model; the epoch is chosen by the last but one click. ± "
        "behind a mean is the deviation between seeds. Differences are paired by user; their 95 % interval counts "
        "users and seeds."
    )
    yield from ("", "| rival | beside | metric | ppr_dist | the other | difference, 95 % interval | p | noise? |")
    yield "|---" * 8 + "|"
    for row in rows:
        for metric in METRICS:
            m = row[metric]
            cells = [f"{m['means'][n]:.4f} ± {m['deviations'][n]:.4f}" for n in ("ppr_dist", row["system"])]
            low, high = m["interval"]
            said = f"{m['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
            verdict = "within" if m["within_noise"] else "beyond"
            head = f"{row['rival']} | {row['system']} {row['version']} | {metric.upper()}"
            yield f"| {head} | {cells[0]} | {cells[1]} | {said} | {m['p']:.2g} | {verdict} |"
    yield from ("", "| rival | system | parameters | core-seconds of training | best epoch of each seed |")
    yield "|---" * 5 + "|"
    for row in rows:
        for name in ("ppr_dist", row["system"]):
            of = row[name]
            seconds = ", ".join(f"{each:.0f}" for each in of["seconds"])
            best = ", ".join(map(str, of["best_epochs"]))
            yield f"| {row['rival']} | {name} | {of['parameters']:,} | {seconds} | {best} |"
    yield from ("", "Validation NDCG@10 after so many epochs, mean over seeds:", "")
    for row in rows:
        curves = {name: row[name]["curves"] for name in ("ppr_dist", row["system"])}
        epochs = list(curves["ppr_dist"][0])
        yield from (f"| {row['rival']} | {' | '.join(map(str, epochs))} |", "|---" * (1 + len(epochs)) + "|")
        for name, each in curves.items():
            means = (float(np.mean([curve[epoch][0] for curve in each])) for epoch in epochs)
            yield f"| {name} | {' | '.join(f'{mean:.4f}' for mean in means)} |"
        yield ""
    yield ALL_DIFFER
    for row in rows:
        yield f"{row['rival']}: {RIVALS[row['rival']].same_but}."


if __name__ == "__main__":
    main()
