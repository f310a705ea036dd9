"""How fast is the exact top k of a whole catalogue on the sharded item table, beside faiss?

    python -m benchmarks.retrieval [--work FOLDER] [--sizes 1000000 10000000] [--users 256] [--out results.md]

The item table (d 64, one rank) holds N(0, 1) vectors whose lengths are log-normal (σ 0.3), as learnt vectors have a few
long ones; users are N(0, 1). ``recommend``'s own ranking (scoring.top_k) and, with ``--work``, faiss' IndexFlatIP in an
environment of its own over the same vectors answer the same users in turn, their order reversed in every other round;
each alone, with the same threads. Without ``--work`` the comparison is a product and torch.topk over the whole row.
Reports users/s (medians over rounds, the first of which warms up), the median of the ratios within rounds, the resident
memory a ranking takes beside the table, and whether ids and scores are those of brute force in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environments import environment
from benchmarks.hardware import hardware, heading, reset_peak_rss
from benchmarks.worker import Worker
from ppr_dist.tracking.machine import peak_rss, resident

DIM = 64
PEERS = Path(__file__).parent / "peers"
CHECKED = 16
"""Users whose answer is compared with brute force."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where faiss' environment is made; none: no faiss")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--users", type=int, nargs="+", default=[256], help="of one ranking")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_measure(options.one, options)))
        return
    rows = []
    for size in options.sizes:  # each in a process of its own, whose memory says something
        argv = [sys.executable, "-m", "benchmarks.retrieval", "--one", str(size), "--rounds", str(options.rounds)]
        argv += ["--users", *map(str, options.users), "--threads", str(options.threads)]
        argv += ["--work", str(options.work)] if options.work else []
        threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
        run = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | threads)
        rows += json.loads(run.stdout.splitlines()[-1])
    result = {"benchmark": "retrieval", **hardware(), "threads": options.threads, "rows": rows}
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _measure(items: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    from ppr_dist.build_model import untuned_model
    from ppr_dist.catalogue import Catalogue
    from ppr_dist.config import Config, Model
    from ppr_dist.parallel.apply import make_embeddings
    from ppr_dist.parallel.distributed import distributed_context
    from ppr_dist.runs import table_sizes
    from ppr_dist.scoring import ModelScorer, Queries, top_k

    torch.set_num_threads(options.threads)
    config, catalogue = Config(model=Model(dim=DIM)), Catalogue(items=items, attributes={})
    with distributed_context() as context, tempfile.TemporaryDirectory() as folder, torch.no_grad():
        embeddings = make_embeddings(table_sizes(config, catalogue, None), config, context)
        ((_, weights, _, _),) = embeddings.local_shards()
        _fill(weights)
        scorer = ModelScorer(embeddings, untuned_model(config, catalogue), context.device)
        nothing = np.zeros(0, np.int64)

        def ours(users: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
            queries = Queries(users=users, rows=nothing, items=nothing, sizes=(len(users),))
            ids, scores = top_k(scorer, queries, items, k)
            return ids.numpy(), scores.numpy()

        other = _Faiss(weights, Path(folder), options) if options.work else _plain(weights)
        before = resident()
        return [
            _case(ours, other, weights, users, k, options.rounds, before) for users in options.users for k in (10, 100)
        ]


def _fill(weights: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    for part in weights.split(1_000_000):
        lengths = torch.exp(0.3 * torch.randn(len(part), 1, generator=generator))
        part.copy_(torch.randn(part.shape, generator=generator) * lengths)


def _plain(weights: torch.Tensor) -> Callable[[torch.Tensor, int], tuple[np.ndarray, np.ndarray, float]]:
    def search(users: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray, float]:
        start = time.perf_counter()
        scores, ids = (users @ weights.T).topk(k, dim=1)
        return ids.numpy(), scores.numpy(), time.perf_counter() - start

    return search


class _Faiss:
    """The same question to faiss, in its own process."""

    def __init__(self, weights: torch.Tensor, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        np.save(folder / "items.npy", weights.numpy())
        python = environment(PEERS / "faiss.txt", options.work.resolve())
        given = json.dumps({"items": str(folder / "items.npy"), "threads": options.threads})
        self.worker = Worker([str(python), str(PEERS / "run_faiss.py"), given])
        self.worker.reply()

    def __call__(self, users: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray, float]:
        np.save(self.folder / "users.npy", users.numpy())
        asked = {"users": str(self.folder / "users.npy"), "k": k, "out": str(self.folder / "found.npz")}
        seconds = self.worker.ask(asked)["seconds"]
        found = np.load(self.folder / "found.npz")
        return found["ids"], found["scores"], seconds


def _case(ours: Any, other: Any, weights: torch.Tensor, count: int, k: int, rounds: int, before: int) -> dict[str, Any]:
    users = torch.randn(count, DIM, generator=torch.Generator().manual_seed(k))
    seconds: dict[str, list[float]] = {"ppr_dist": [], "other": []}
    found: dict[str, Any] = {}
    extra = 0
    for number in range(rounds):
        for name in list(seconds) if number % 2 else list(seconds)[::-1]:
            if name == "other":
                *found[name], taken = other(users, k)
            else:
                reset_peak_rss()
                start = time.perf_counter()
                found[name] = ours(users, k)
                taken = time.perf_counter() - start
                extra = max(extra, peak_rss() - before)
            seconds[name].append(taken)
    rates = {name: [count / taken for taken in all_taken[1:]] for name, all_taken in seconds.items()}
    ids, scores = found["ppr_dist"]
    row = {
        "items": len(weights),
        "users": count,
        "k": k,
        "other": "faiss" if isinstance(other, _Faiss) else "torch",
        "users_per_s": statistics.median(rates["ppr_dist"]),
        "other_users_per_s": statistics.median(rates["other"]),
        "over_other": statistics.median(a / b for a, b in zip(rates["ppr_dist"], rates["other"], strict=True)),
        "extra_bytes": extra,
        "equals_brute_force": _equals_brute_force(weights, users[:CHECKED], ids[:CHECKED], scores[:CHECKED]),
        "largest_score_difference_to_other": float(np.abs(scores - found["other"][1]).max()),
        "ids_like_other": float((ids == found["other"][0]).mean()),
    }
    print(row, file=sys.stderr, flush=True)
    return row


def _equals_brute_force(weights: torch.Tensor, users: torch.Tensor, ids: np.ndarray, scores: np.ndarray) -> bool:
    """Whether no item beats the k found, and each of those has the score stated, up to float32 rounding."""
    slack = 1e-4
    threshold = torch.from_numpy(scores[:, -1:]).double()
    better = torch.zeros(len(users), dtype=torch.int64)
    for part in weights.split(500_000):
        better += (users.double() @ part.double().T > threshold + slack).sum(1)
    chosen = torch.einsum("ud,ukd->uk", users.double(), weights[torch.from_numpy(ids)].double()).numpy()
    distinct = all(len(np.unique(row)) == len(row) for row in ids)
    return bool((better.numpy() < ids.shape[1]).all() and np.abs(chosen - scores).max() < slack and distinct)


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    sizes, users = (" ".join(map(str, given)) for given in (options.sizes, options.users))
    work = "--work FOLDER " if options.work else ""
    lines = [
        *heading("Top k of a whole catalogue", result, f"{result['threads']} threads."),
        f"    python -m benchmarks.retrieval {work}--sizes {sizes} --users {users} --rounds {options.rounds}",
        "",
        "| items | users | k | ppr_dist, users/s | other | its users/s | ppr_dist ÷ other | memory beside table, MB | "
        "equals brute force |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {r['items']:.0e} | {r['users']} | {r['k']} | {r['users_per_s']:,.0f} | {r['other']} | "
            f"{r['other_users_per_s']:,.0f} | {r['over_other']:.2f} | {r['extra_bytes'] / 1e6:.0f} | "
            f"{'yes' if r['equals_brute_force'] else 'NO'} |"
            for r in result["rows"]
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
