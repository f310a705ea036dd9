"""Throughput, balance and memory from what every rank counted between two reports. Arithmetic alone.

What is counted: ``users``, ``targets``, ``tokens`` (clicks of histories), ``slots`` (of padded buckets), ``asked`` and
``distinct`` items, ``rows`` asked of this rank by all, ``waited`` seconds for data; ``host``, ``gpu`` and their peaks
are bytes now.
"""

from __future__ import annotations

RANKS_SHOWN = 64
"""Ranks whose own figures are logged; of more, the first."""


def figures(by_rank: dict[str, list[float]], steps: int, seconds: float) -> dict[str, float | None]:
    """Figures by name; ``by_rank``: what each rank counted in ``steps`` steps and ``seconds`` seconds.

    Memory of ranks together is that of the fullest; None of a GPU where there is none.
    """
    total = {name: sum(values) for name, values in by_rank.items()}
    ranks = len(by_rank["users"])
    found: dict[str, float | None] = {
        **{f"{what}_per_s": total[what] / seconds for what in ("users", "targets", "tokens")},
        "step_ms": 1e3 * seconds / steps,
        "data_wait_share": total["waited"] / seconds / ranks,
        "real_slots_share": total["tokens"] / max(total["slots"], 1),
        "distinct_ids_share": total["distinct"] / max(total["asked"], 1),
        "busiest_rank_over_mean": max(by_rank["rows"]) * ranks / max(total["rows"], 1),
    }
    memory = [name for name in ("host", "peak_host", "gpu", "peak_gpu") if name in by_rank]
    on_gpu: dict[str, float | None] = dict.fromkeys(("gpu_gb", "peak_gpu_gb"))
    found |= on_gpu | {f"{name}_gb": max(by_rank[name]) / 1e9 for name in memory}
    for rank in range(min(ranks, RANKS_SHOWN)):
        own = {f"{what}_per_s": by_rank[what][rank] / seconds for what in ("users", "targets", "tokens")}
        own["data_wait_share"] = by_rank["waited"][rank] / seconds
        own |= {f"{name}_gb": by_rank[name][rank] / 1e9 for name in memory}
        found |= {f"rank/{rank}/{name}": value for name, value in own.items()}
    return found
