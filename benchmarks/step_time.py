"""How fast is a training step on a GPU, and what holds it back?

    python -m benchmarks.step_time [--steps 20] [--out results.md]

Beside it, in the same process: the same sequential model and loss over nn.Embedding with Adam over the whole table, the
model under torch.compile. Both in bfloat16 (autocast), tables in float32, histories of half to the whole length.

tokens/s counts real history tokens. MFU: the FLOPs of ppr_dist.parallel.step_cost.StepFlops, which a run logs too (6
per weight of the transformer's matrices and token, 6·l²·D per layer and history of length l for causal attention,
6·P·N·D for the loss over N candidates), over the step's time and the card's dense bfloat16 rate. Look-up: the rows
asked for, read and written once forward, and gradient and row read and row written once by the update, over the time of
both, beside the rate of a device-to-device copy (bytes read and written) in the same run. ``--device cpu`` tries the
program out in small.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.batches import random_batch
from benchmarks.hardware import hardware, heading
from benchmarks.plain_loss import plain_loss
from ppr_dist.batch import Batch
from ppr_dist.build_model import untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Loss, Model, Train
from ppr_dist.model.backbones import sasrec
from ppr_dist.model.encoded import Encoded
from ppr_dist.objectives import softmax
from ppr_dist.parallel.apply import parallelize
from ppr_dist.parallel.distributed import DistributedContext, distributed_context
from ppr_dist.parallel.prefetch import fetch
from ppr_dist.parallel.step_cost import StepFlops
from ppr_dist.runs import table_sizes
from ppr_dist.step_loss import make_objectives
from ppr_dist.tracking.machine import peak_flops
from ppr_dist.trainer import train_step

WARM_UP, BATCHES = 6, 3
Step = Callable[[Batch], None]


@dataclasses.dataclass(frozen=True)
class Size:
    dim: int
    layers: int
    length: int
    batch: int
    items: int


SIZES = {
    "cuda": [Size(64, 2, 50, 4096, 10**6), Size(64, 2, 50, 4096, 10**7), Size(512, 8, 512, 128, 10**6)],
    "cpu": [Size(16, 1, 10, 32, 1000), Size(32, 2, 20, 16, 5000)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("step_time needs a GPU; --device cpu tries the program out in small")
    with distributed_context() as context:
        copy = copy_rate(context.device)
        rows = [row for size in SIZES[options.device] for row in measure(size, context, options.steps, copy)]
    result = {"benchmark": "step_time", **hardware(), "copy_bytes_per_s": copy, "rows": rows}
    if options.out:
        options.out.write_text(_markdown(result))
    print(json.dumps(result))


def measure(size: Size, context: DistributedContext, steps: int, copy: float) -> list[dict[str, Any]]:
    """Both forms at one size, one after the other, each with the card to itself."""
    cuda = context.device.type == "cuda"
    config = Config(
        model=Model(dim=size.dim, max_length=size.length),
        loss=Loss(logit_chunk=2**27),
        train=Train(global_batch_size=size.batch, precision="bfloat16" if cuda else "float32"),
        parts={
            "sasrec": sasrec.Settings(layers=size.layers, heads=max(2, size.dim // 64)),
            "softmax": softmax.Settings(uniform_negatives=512, in_batch_per_user=1),
        },
    )
    tokens = 65_536 if cuda else None  # as training.make_loader sets it
    batches = [
        random_batch(config, size.items, s, shortest=size.length // 2, bucket_tokens=tokens) for s in range(BATCHES)
    ]
    batches = [batch.pin_memory() for batch in batches] if cuda else batches
    rows = []
    for form in (_ours, _plain):
        if cuda:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        step, look_up_and_update = form(config, size.items, context)
        seconds = _times(step, batches, steps, context.device)
        row: dict[str, Any] = {**dataclasses.asdict(size), "form": form.__name__[1:], "step_ms": 1e3 * seconds}
        row |= rates(config, Catalogue(items=size.items, attributes={}), batches, seconds)
        row["host_waits_per_step"] = _host_waits(step, batches[0]) if cuda else None
        row["peak_gpu_bytes"] = torch.cuda.max_memory_allocated() if cuda else None
        tables = _times(look_up_and_update, batches, steps, context.device)
        moved = 5 * 4 * size.dim * statistics.mean(len(batch.item_ids) for batch in batches)
        row |= {"tables_ms": 1e3 * tables, "tables_bytes_per_s": moved / tables}
        row["tables_over_copy_rate"] = moved / tables / copy
        rows.append(row)
        del step, look_up_and_update
    return rows


def rates(config: Config, catalogue: Catalogue, batches: list[Batch], seconds: float) -> dict[str, Any]:
    """Tokens, targets and model FLOPs per second; what FLOPs count stands at the top."""
    lengths = torch.cat([batch.history.lengths for batch in batches]).double()
    tokens, squares = float(lengths.sum()), float((lengths**2).sum())
    targets, steps = sum(len(batch.targets) for batch in batches), len(batches)
    per_step = {"targets": targets / steps, "clicks": tokens / steps, "squared": squares / steps}
    flops = StepFlops(config, catalogue, None)(world_size=1, users=config.train.global_batch_size, **per_step)
    peak = peak_flops(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return {
        "tokens_per_s": tokens / steps / seconds,
        "targets_per_s": targets / steps / seconds,
        "model_flops_per_s": flops / seconds,
        "mfu": flops / seconds / peak if peak else None,
    }


def _ours(config: Config, items: int, context: DistributedContext) -> tuple[Step, Step]:
    catalogue = Catalogue(items=items, attributes={})
    model = untuned_model(config, catalogue)
    parallel = parallelize(table_sizes(config, catalogue, None), model, config, context)
    objectives = make_objectives(config, None, catalogue)

    def step(batch: Batch) -> None:
        train_step(parallel, fetch(batch.to(context.device), parallel.embeddings, objectives), objectives)

    def look_up_and_update(batch: Batch) -> None:
        vectors = parallel.embeddings.look_up_items(batch.item_ids.to(context.device, non_blocking=True))["id"]
        vectors.backward(vectors.detach())

    return step, look_up_and_update


def _plain(config: Config, items: int, context: DistributedContext) -> tuple[Step, Step]:
    """As one would write it in plain PyTorch: Adam moves every row of the table at every step."""
    device, catalogue = context.device, Catalogue(items=items, attributes={})
    fused = device.type == "cuda"
    table = nn.Embedding(items, config.model.dim, device=device)
    model = untuned_model(config, catalogue).to(device)
    objectives = make_objectives(config, None, catalogue)
    compiled = torch.compile(model) if fused else model  # a CPU may have no compiler
    table_adam = torch.optim.Adam(table.parameters(), lr=1e-3, fused=fused)
    model_adam = torch.optim.AdamW(model.parameters(), lr=config.train.lr, fused=fused)

    def encode(items: Tensor, batch: Batch, profiles: dict[str, Tensor]) -> Encoded:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bfloat16"):
            encoded: Encoded = compiled(items, batch, profiles)
            return encoded

    def step(batch: Batch) -> None:
        batch = batch.to(device)
        plain_loss(encode, objectives, batch, table(batch.item_ids)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.train.max_grad_norm)
        for optimizer in (model_adam, table_adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def look_up_and_update(batch: Batch) -> None:
        vectors = table(batch.item_ids.to(device, non_blocking=True))
        vectors.backward(vectors.detach())
        table_adam.step()
        table_adam.zero_grad(set_to_none=True)

    return step, look_up_and_update


def _times(step: Callable[[Any], Any], batches: list[Any], steps: int, device: torch.device) -> float:
    """Median seconds of a step, by events on the GPU's stream; the host runs ahead as in training."""
    marks: list[Any] = []
    for number in range(WARM_UP + steps):
        if number >= WARM_UP:
            marks.append(_mark(device))
        step(batches[number % len(batches)])
    marks.append(_mark(device))
    if device.type == "cuda":
        torch.cuda.synchronize()
        return statistics.median(1e-3 * a.elapsed_time(b) for a, b in itertools.pairwise(marks))
    return statistics.median(b - a for a, b in itertools.pairwise(marks))


def _mark(device: torch.device) -> Any:
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _host_waits(step: Step, batch: Batch) -> int:
    """How often the host waits for the GPU in a step (copies, and waits for a stream)."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        step(batch)
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in seen)


def copy_rate(device: torch.device) -> float:
    """Bytes read and written per second by a copy that no cache holds."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _times(lambda _: target.copy_(source), [None], 10, device)


def _markdown(result: dict[str, Any]) -> str:
    lines = [
        *heading("A training step on a GPU", result),
        "    python -m benchmarks.step_time",
        "",
        f"A device-to-device copy moves {result['copy_bytes_per_s'] / 1e9:.0f} GB/s, read and written. What the "
        "columns mean stands at the top of benchmarks/step_time.py.",
        "",
        "| d, layers, length, batch, items | form | step, ms | tokens/s | MFU | tables, ms | tables, GB/s | over copy "
        "| peak GPU, GB | host waits |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        size = f"{r['dim']}, {r['layers']}, {r['length']}, {r['batch']}, {r['items']:.0e}"
        mfu = f"{100 * r['mfu']:.1f} %" if r["mfu"] else "unknown card"
        peak = f"{r['peak_gpu_bytes'] / 1e9:.1f}" if r["peak_gpu_bytes"] else ""
        lines.append(
            f"| {size} | {r['form']} | {r['step_ms']:.2f} | {r['tokens_per_s']:.3g} | {mfu} | {r['tables_ms']:.2f} | "
            f"{r['tables_bytes_per_s'] / 1e9:.0f} | {r['tables_over_copy_rate']:.2f} | {peak} | "
            f"{r['host_waits_per_step']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
