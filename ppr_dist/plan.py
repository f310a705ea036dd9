"""Does a catalogue fit on a cluster? Plans the tables, says bytes per rank, and tries what would help.

``python -m ppr_dist.plan --cluster sharding/gpu-32.yaml --items 1000000000 --dim 128`` needs no GPU and no
data. Prints the plan and, as the last line, one JSON. Status: 0 it fits, 1 it does not, 2 bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.modules.embedding_configs import DataType, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from ppr_dist.cli import run
from ppr_dist.errors import UserError
from ppr_dist.parallel.planning import Cluster, DoesNotFitError, describe_plan, load_cluster, make_plan

OPTIMIZERS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "adam": EmbOptimType.ADAM,
    "partial_rowwise_adam": EmbOptimType.PARTIAL_ROWWISE_ADAM,
}
MOST_RANKS = 4096  # where the search for enough ranks gives up


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One thing to ask of the planner."""

    cluster: Cluster
    world_size: int
    items: int
    dim: int
    profile_values: int
    optimizer: str
    half: bool = False

    def ask(self) -> tuple[dict[str, Any], DoesNotFitError | None]:
        """Return ``describe_plan`` of the plan, or of the leanest one and why it does not fit."""
        dtype = DataType.FP16 if self.half else DataType.FP32
        item = EmbeddingConfig(
            name="item",
            num_embeddings=self.items,
            embedding_dim=self.dim,
            feature_names=["item"],
            data_type=dtype,
        )
        names = ("prompt_profile", "tower_profile") if self.profile_values else ()
        profiles = [
            EmbeddingConfig(name=n, num_embeddings=self.profile_values, embedding_dim=self.dim, feature_names=[n])
            for n in names
        ]
        meta = torch.device("meta")
        module = nn.Module()
        module.items = EmbeddingCollection(tables=[item], device=meta)
        if profiles:
            module.profiles = EmbeddingCollection(tables=profiles, device=meta)
        kind = OPTIMIZERS[self.optimizer]
        sharder = EmbeddingCollectionSharder(fused_params={"optimizer": kind}, use_index_dedup=False)
        fault = None
        try:
            plan = make_plan(module, self.cluster, self.world_size, [sharder])
        except DoesNotFitError as error:
            plan, fault = error.plan, error
        return describe_plan(plan, [item, *profiles], kind.value, self.cluster, self.world_size), fault

    def with_item(self, **changes: Any) -> Question:
        """The same question with the item table's constraint changed."""
        item = dataclasses.replace(self.cluster.constraint("item"), **changes)
        constraints = {**self.cluster.constraints, "item": item}
        return dataclasses.replace(self, cluster=dataclasses.replace(self.cluster, constraints=constraints))


def changes(question: Question) -> Iterator[tuple[str, Question]]:
    """What might make it fit, cheapest first: other cuts, half the bits, slower memory, more machines."""
    own = question.cluster.constraint("item").sharding_types
    for kind in ("row_wise", "column_wise"):
        if kind not in own:
            yield f"item {kind}", question.with_item(sharding_types=(kind,))
    half = dataclasses.replace(question, half=True)
    yield "half-precision item table (tables.precision float16)", half
    if question.cluster.compute_device == "cuda":
        cached = {"compute_kernels": ("fused_uvm_caching",)}
        yield (
            "item rows in host memory, hot ones cached on the GPU",
            question.with_item(**cached),
        )
        yield "both: half precision and host memory", half.with_item(**cached)
    enough = more_ranks(question)
    yield f"{enough.world_size} ranks", enough


def more_ranks(question: Question) -> Question:
    """The question on the fewest ranks, in whole machines, that fit; on MOST_RANKS where none do."""
    step = min(question.cluster.ranks_per_node, question.world_size)

    def on(machines: int) -> Question:
        return dataclasses.replace(question, world_size=machines * step)

    low = high = question.world_size // step
    while high * step < MOST_RANKS and on(high).ask()[1]:
        low, high = high, min(high * 2, MOST_RANKS // step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if on(middle).ask()[1] else (low, middle)
    return on(high)


def show(question: Question, said: dict[str, Any]) -> Iterator[str]:
    """The plan as lines for a reader."""
    yield (
        f"{question.items:,} items x {question.dim}, {question.optimizer}, "
        f"on {question.world_size} rank(s) of {question.cluster.name!r}"
    )
    yield ""
    head = f"{'table':16}{'rows':>15}{'columns':>9}  {'dtype':7}{'sharding':13}{'kernel':19}{'shards':>6}"
    yield f"{head}  largest shard"
    for table in said["tables"]:
        rows, columns = max((shard[1], shard[2]) for shard in table["shards"])
        yield (
            f"{table['name']:16}{table['rows']:>15,}{table['columns']:>9}  {table['dtype']:7}"
            f"{table['sharding_type']:13}{table['compute_kernel']:19}{len(table['shards']):>6}"
            f"  {rows:,} x {columns}"
        )
    yield ""
    yield f"{'bytes per rank':22}{'largest':>18}{'mean':>18}"
    for memory in ("hbm", "host"):
        if not said["largest"][memory]:
            continue
        fullest = max(said["ranks"], key=lambda rank: rank[memory]["total"])[memory]
        for part, count in fullest.items():
            mean = sum(rank[memory][part] for rank in said["ranks"]) / len(said["ranks"])
            if count:
                yield f"{memory + ' ' + part:22}{count:>18,}{mean:>18,.0f}"
        yield f"{memory + ' usable':22}{said['usable_bytes_per_rank'][memory]:>18,}"
    yield from (f"note: {note}" for note in said["notes"])
    yield ""


def main(argv: list[str] | None = None) -> None:
    """Plan, print, and exit with 1 where the tables do not fit."""
    parser = argparse.ArgumentParser(prog="python -m ppr_dist.plan", description=__doc__)
    parser.add_argument("--cluster", required=True, help="a file like sharding/gpu-32.yaml")
    parser.add_argument("--items", type=int, required=True, help="rows of the item table")
    parser.add_argument("--dim", type=int, required=True, help="columns of every table")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="rowwise_adagrad")
    parser.add_argument("--world-size", "--world_size", type=int, help="ranks (default: the whole cluster)")
    parser.add_argument("--profile-values", "--profile_values", type=int, default=100, help="0 for no profiles")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    args = parser.parse_args(argv)
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    cluster = load_cluster(args.cluster)
    if args.items < 1 or args.dim < 4 or args.dim % 4 or args.profile_values < 0:
        raise UserError("--items must be at least 1, --dim a multiple of 4 and --profile-values at least 0")
    question = Question(
        cluster=cluster,
        world_size=cluster.world_size if args.world_size is None else args.world_size,
        items=args.items,
        dim=args.dim,
        profile_values=args.profile_values,
        optimizer=args.optimizer,
    )
    said, fault = question.ask()
    report: dict[str, Any] = {"fits": fault is None, "items": args.items, "dim": args.dim}
    lines = list(show(question, said))
    if fault is None:
        lines.append("It fits.")
    else:
        tried = []
        for name, change in changes(question):
            outcome, short = change.ask()
            tried.append({"change": name, "fits": short is None, "largest": outcome["largest"]})
        cheapest = next((t["change"] for t in tried if t["fits"]), None)
        report |= {"why": str(fault), "memory": fault.memory, "short_bytes": fault.short_bytes}
        report |= {"changes": tried, "cheapest": cheapest}
        for t in tried:
            use = ", ".join(f"{t['largest'][m]:,} bytes {m}" for m in ("hbm", "host") if t["largest"][m])
            lines.append(f"{'fits        ' if t['fits'] else 'does not fit'}  {t['change']}: {use} on the fullest rank")
        lines.append(f"cheapest change that makes it fit: {cheapest or 'none of those tried'}")
    if not args.json:
        print("\n".join(lines))
    print(json.dumps({**report, **said}), flush=True)
    if fault is not None:
        print(f"ppr_dist: does not fit: {fault}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    run(main)
