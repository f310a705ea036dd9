"""What does the candidate loss cost beside a materialised softmax?

    python -m benchmarks.loss [--predictions 12800] [--candidates 8192] [--rounds 7] [--out results.md]

Forward and backward of ppr_dist's chunked sampled softmax, for several chunks, and of the same loss written with whole
logits and ``cross_entropy``, in turn. Each way also runs once in a process of its own for its peak of extra memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.hardware import hardware, heading, reset_peak_rss
from ppr_dist.loss.softmax import sampled_softmax
from ppr_dist.tracking.machine import peak_rss

DIM, ITEMS = 64, 1_000_000
CHUNKS = {f"chunk 2^{power}": 2**power for power in (18, 20, 22, 24)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=12_800)
    parser.add_argument("--candidates", type=int, default=8_192)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    ways = _ways()
    inputs = _inputs(options.predictions, options.candidates)
    if options.peak_of:
        print(_peak(ways[options.peak_of], inputs))
        return
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(*inputs).backward()
            seconds[name].append(time.perf_counter() - start)
    rows = {
        name: {"ms": 1e3 * statistics.median(times[1:]), "extra_bytes": _peak_in_a_process(name, options)}
        for name, times in seconds.items()
    }
    result = {
        "benchmark": "loss",
        **hardware(),
        "predictions": options.predictions,
        "candidates": options.candidates,
        "logits_bytes": 4 * options.predictions * options.candidates,
        "rows": rows,
        "materialised_over_default": rows["materialised"]["ms"] / rows["chunk 2^20"]["ms"],
    }
    if options.out:
        options.out.write_text(_markdown(result))
    print(json.dumps(result))


def _inputs(predictions: int, candidates: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    vectors = [
        torch.randn(n, DIM, generator=generator).requires_grad_() for n in (predictions, predictions, candidates)
    ]
    ids = [torch.randint(ITEMS, (n,), generator=generator) for n in (predictions, candidates)]
    return (*vectors, *ids, torch.randn(candidates, generator=generator))


def _ways() -> dict[str, Callable[..., Tensor]]:
    def chunked(logit_chunk: int) -> Callable[..., Tensor]:
        def loss(user: Tensor, positive: Tensor, candidates: Tensor, *ids: Tensor) -> Tensor:
            positive_ids, candidate_ids, log_q = ids
            return sampled_softmax(
                user,
                positive,
                candidates,
                positive_ids=positive_ids,
                candidate_ids=candidate_ids,
                log_q=log_q,
                temperature=1.0,
                logit_chunk=logit_chunk,
            )

        return loss

    def materialised(user: Tensor, positive: Tensor, candidates: Tensor, *ids: Tensor) -> Tensor:
        positive_ids, candidate_ids, log_q = ids
        logits = user @ candidates.T - log_q
        logits = logits.masked_fill(positive_ids[:, None] == candidate_ids, -torch.inf)
        logits = torch.cat([(user * positive).sum(-1, keepdim=True), logits], dim=1)
        target = torch.zeros(len(user), dtype=torch.int64)
        return torch.nn.functional.cross_entropy(logits, target, reduction="sum")

    return {**{name: chunked(size) for name, size in CHUNKS.items()}, "materialised": materialised}


def _peak(way: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> int:
    """Bytes by which this process grows over its inputs and their gradients; a small call first loads the kernels."""
    way(*_inputs(64, 64)).backward()
    for tensor in inputs[:3]:
        tensor.grad = torch.zeros_like(tensor)
    reset_peak_rss()
    before = peak_rss()
    way(*inputs).backward()
    return peak_rss() - before


def _peak_in_a_process(name: str, options: argparse.Namespace) -> int:
    sizes = ["--predictions", str(options.predictions), "--candidates", str(options.candidates)]
    argv = [sys.executable, "-m", "benchmarks.loss", "--peak-of", name, *sizes]
    return int(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _markdown(result: dict[str, Any]) -> str:
    lines = [
        *heading("The candidate loss", result, f"{torch.get_num_threads()} threads."),
        f"    python -m benchmarks.loss --predictions {result['predictions']} --candidates {result['candidates']}",
        "",
        f"Forward and backward, d {DIM}; the logits as a whole are {result['logits_bytes'] / 1e6:.0f} MB. Extra memory "
        "is the growth of the peak over inputs and gradients; ours keeps three gradients of the inputs' size besides "
        "the chunk.",
        "",
        "| way | ms | extra MB |",
        "|---|---|---|",
        *(f"| {name} | {row['ms']:.0f} | {row['extra_bytes'] / 1e6:.0f} |" for name, row in result["rows"].items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
