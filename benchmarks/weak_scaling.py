"""Does twice the work on twice the ranks take the same time, and where does a step go?

    python -m benchmarks.weak_scaling [--users 128 256 512] [--rounds 8] [--seconds 3] [--out results.md]

One rank on one core against two gloo ranks on two, each rank a process pinned to its core with one thread and
``--users`` users a step, the training loop as pretrain runs it (stream, ids one batch ahead, d 64, 2 layers, length 50,
sampled softmax) on a synthetic log. The number of candidates of a step is the same for one and two ranks, so that a
target costs the same; its in-batch share comes from half as many of each user's targets. As a control, two runs of
one rank each, with other seeds, train at the same time and know nothing of each other. From their single steps comes
what two ranks could reach if talking cost nothing and they only waited for the slower one in each step: users'
histories differ in length, and this machine's cores in what else they do. The three arrangements take turns within a
round, their order reversed in every other one.
Efficiency = targets/s of two ranks ÷ (2 × one rank); medians over rounds. The breakdown is rank 0's, of exclusive
times; what the phases do not cover is "rest".
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.hardware import hardware, heading
from benchmarks.worker import Answers, Worker

if TYPE_CHECKING:
    from ppr_dist.batch import Batch
    from ppr_dist.catalogue import Catalogue
    from ppr_dist.config import Config
    from ppr_dist.data.stream.loader import Loader
    from ppr_dist.parallel.apply import Parallel
    from ppr_dist.parallel.distributed import DistributedContext

CANDIDATES = 512
"""Uniform ones of a step; two more for each user of a rank come from the batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[128, 256, 512], help="per rank and step")
    parser.add_argument("--rounds", type=int, default=8, help="the first warms up")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each arrangement and round, about")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        _run_rank(json.loads(options.rank))
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("weak_scaling needs two cores")
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder))
        sizes = [_compare(data, users, options, cores) for users in options.users]
    result = {"benchmark": "weak_scaling", **hardware(), "rounds": options.rounds - 1, "sizes": sizes}
    if options.out:
        options.out.write_text(_markdown(result, options))
    print(json.dumps(result))


def _compare(data: Path, users: int, options: argparse.Namespace, cores: list[int]) -> dict[str, Any]:
    rounds = _take_turns(data, users, options, cores)

    def median(value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(r) for r in rounds)

    return {
        "users_per_rank": users,
        "targets_per_s": {name: statistics.median(r[name]["rate"] for r in rounds) for name in rounds[0]},
        "efficiency": median(lambda r: r["two ranks"]["rate"] / (2 * r["one rank"]["rate"])),
        "efficiency_of_two_strangers": median(lambda r: r["two strangers"]["rate"] / (2 * r["one rank"]["rate"])),
        "efficiency_if_talking_were_free": median(
            lambda r: r["two strangers"]["rate"] * _in_step(r["two strangers"]) / (2 * r["one rank"]["rate"])
        ),
        "breakdown_ms": {name: _breakdown([r[name] for r in rounds]) for name in rounds[0]},
    }


def _in_step(strangers: dict[str, Any]) -> float:
    """Speed left to two that wait for the slower one in every step, of what they have alone."""
    pairs = list(zip(*strangers["steps"], strict=True))
    alone = max(sum(steps) for steps in strangers["steps"])
    return float(alone / sum(max(pair) for pair in pairs))


def make_data(work: Path) -> Path:
    size = ("--users", "20000", "--items", "100000", "--cold-fraction", "0.1")
    files = ("--interactions", str(work / "log/interactions.parquet"), "--users", str(work / "log/users.parquet"))
    for module, *arguments in (
        ("ppr_dist.data.synthetic", "--out", str(work / "log"), *size),
        ("ppr_dist.prepare", *files, "--out", str(work / "data")),
    ):
        subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=sys.stderr)
    return work / "data"


def start_ranks(module: str, data: Path, users: int, world: int, cores: list[int], **more: Any) -> list[Worker]:
    """One world of ``python -m module --rank GIVEN``, of one thread each, on cores in turn; ``more``: given besides.

    Each says once that it is ready (:meth:`Worker.reply`).
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    given = {"data": str(data), "users": users, "world": world, "port": free_port(), "seed": 0, **more}
    workers = []
    for rank in range(world):
        own = json.dumps(given | {"rank": rank, "core": cores[rank % len(cores)]})
        workers.append(Worker([sys.executable, "-m", module, "--rank", own], env=environment))
    return workers


class _Ranks:
    """The processes of one arrangement, asleep until told to train; ``worlds`` of so many ranks each."""

    def __init__(self, data: Path, users: int, worlds: list[int], cores: list[int]) -> None:
        self.workers: list[Worker] = []
        for seed, world in enumerate(worlds):
            free = cores[len(self.workers) :]
            self.workers += start_ranks("benchmarks.weak_scaling", data, users, world, free, seed=seed)
        for worker in self.workers:
            worker.reply()

    def train(self, steps: int) -> dict[str, Any]:
        for worker in self.workers:
            worker.send(steps)
        replies = [worker.reply() for worker in self.workers]
        return {
            "rate": sum(reply["targets"] / sum(reply["steps"]) for reply in replies),
            "steps": [reply["steps"] for reply in replies],
            "phases": {name: seconds / steps for name, seconds in replies[0]["phases"].items()},
        }

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()


def _take_turns(data: Path, users: int, options: argparse.Namespace, cores: list[int]) -> list[dict[str, Any]]:
    arrangements = {"one rank": [1], "two ranks": [2], "two strangers": [1, 1]}
    ranks: dict[str, _Ranks] = {}
    rounds = []
    try:
        for name, worlds in arrangements.items():
            ranks[name] = _Ranks(data, users, worlds, cores)
        steps = 10
        for number in range(options.rounds):
            order = list(ranks) if number % 2 else list(ranks)[::-1]
            rounds.append({name: ranks[name].train(steps) for name in order})
            rates = ", ".join(f"{name} {rounds[-1][name]['rate']:.0f}" for name in ranks)
            print(f"{users} users, round {number}: targets/s: {rates}", file=sys.stderr, flush=True)
            steps = max(5, round(options.seconds / statistics.mean(rounds[-1]["one rank"]["steps"][0])))
    finally:
        for each in ranks.values():
            each.stop()
    return rounds[1:]


def _breakdown(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds of each phase, of the median round by step time."""
    middle = sorted(rounds, key=lambda r: statistics.mean(r["steps"][0]))[len(rounds) // 2]
    phases = {name: 1e3 * seconds for name, seconds in middle["phases"].items()}
    step = 1e3 * statistics.mean(middle["steps"][0])
    return phases | {"rest": step - sum(phases.values()), "step": step}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def joined(given: dict[str, Any]) -> Iterator[Rank]:
    """Pin this process to its core, join the others, and build what pretrain would."""
    os.sched_setaffinity(0, {given["core"]})
    names = {"RANK": "rank", "WORLD_SIZE": "world", "MASTER_PORT": "port"}
    os.environ |= {name: str(given[key]) for name, key in names.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "LOCAL_RANK": str(given["rank"]),
    }
    import torch

    from benchmarks.batches import pretraining
    from ppr_dist.build_model import untuned_model
    from ppr_dist.config import Config, Logging, Train
    from ppr_dist.model.backbones import sasrec
    from ppr_dist.objectives import softmax
    from ppr_dist.parallel.apply import parallelize
    from ppr_dist.parallel.distributed import distributed_context

    torch.set_num_threads(1)
    world = given["world"]
    config = Config(
        train=Train(global_batch_size=given["users"] * world, epochs=10**6, seed=given["seed"]),
        logging=Logging(progress=False, parts_every=0),
        parts={
            "sasrec": sasrec.Settings(ffn_multiple=1),
            "softmax": softmax.Settings(uniform_negatives=CANDIDATES, in_batch_per_user=2 // world),
        },
    )
    with distributed_context() as context:
        run, loader = pretraining(Path(given["data"]), config, context)
        catalogue = run.info.catalogue_for(config)
        parallel = parallelize(run.info.table_sizes(config), untuned_model(config, catalogue), config, context)
        parallel.engine.train()
        yield Rank(context, config, catalogue, loader, parallel)


class Rank(NamedTuple):
    context: DistributedContext
    config: Config
    catalogue: Catalogue
    loader: Loader
    parallel: Parallel

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Epoch after epoch."""
        for epoch in range(10**6):
            yield from self.loader.epoch(epoch)


def _run_rank(given: dict[str, Any]) -> None:
    """Train as many steps as asked, each time, and reply with seconds of each, targets and phases."""
    answers = Answers()
    import torch

    with joined(given) as rank:
        from ppr_dist import trainer
        from ppr_dist.parallel.prefetch import prefetch
        from ppr_dist.tracking.part_names import REST
        from ppr_dist.tracking.step_parts import StepParts

        parallel, objectives = rank.parallel, rank.loader.collator.objectives
        parts = StepParts(parallel)
        batches = prefetch(parts.data(rank.batches()), parallel.embeddings, objectives, rank.context.device)

        def train(steps: int) -> dict[str, Any]:
            torch.distributed.barrier()
            parts.start()
            seconds, targets = [], 0
            for _ in range(steps):
                start = time.perf_counter()
                fetched = next(batches)
                trainer.train_step(parallel, fetched, objectives)
                targets += len(fetched.batch.targets)
                seconds.append(time.perf_counter() - start)
            parts.stop()
            taken = {name: spent for name, spent in parts.take().items() if name != REST}
            return {"steps": seconds, "targets": targets, "phases": taken}

        answers.serve(train)


def _markdown(result: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        *heading("Weak scaling from one core to two, and the parts of a step", result),
        f"    python -m benchmarks.weak_scaling --users {' '.join(map(str, options.users))} "
        f"--rounds {options.rounds} --seconds {options.seconds:g}",
        "",
        "| users per rank | one rank, targets/s | two ranks | efficiency | if talking were free | two strangers |",
        "|---|---|---|---|---|---|",
    ]
    for size in result["sizes"]:
        rates = size["targets_per_s"]
        shares = ("efficiency", "efficiency_if_talking_were_free", "efficiency_of_two_strangers")
        lines.append(
            f"| {size['users_per_rank']} | {rates['one rank']:,.0f} | {rates['two ranks']:,.0f} | "
            + " | ".join(f"{size[share]:.1%}" for share in shares)
            + " |"
        )
    for size in result["sizes"]:
        parts = size["breakdown_ms"]
        lines += [
            "",
            f"| part of a step, ms, {size['users_per_rank']} users per rank | one rank | two ranks | two strangers |",
            "|---|---|---|---|",
        ]
        names = [*(n for n in parts["two ranks"] if n not in ("rest", "step")), "rest", "step"]
        lines += [f"| {n} | " + " | ".join(f"{parts[a].get(n, 0.0):.2f}" for a in parts) + " |" for n in names]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
