"""What there is to be seen of a run: the panels of the dashboard at W&B and of the report's page, by section.

Names are those of the records of metrics.jsonl, which W&B and TensorBoard have too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from ppr_dist.tracking.part_names import PARTS, REST, key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    unit: str
    """What the vertical axis counts; empty where the title says it."""
    keys: tuple[str, ...] = ()
    pattern: str | None = None
    """In place of keys: a regular expression that whole names match."""
    stacked: bool = False
    """Whether the values are parts of a whole."""
    from_zero: bool = True
    """Whether 0 is where the vertical axis begins."""

    def found(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that it shows, in its own order where it has one."""
        there = list(names)
        if self.pattern:
            return [name for name in there if re.fullmatch(self.pattern, name)]
        return [name for name in self.keys if name in there]


SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Throughput": (
        Panel(title="Users", unit="users/s", keys=("users_per_s",)),
        Panel(title="Targets", unit="targets/s", keys=("targets_per_s",)),
        Panel(title="History tokens", unit="tokens/s", keys=("tokens_per_s",)),
        Panel(title="A step", unit="ms", keys=("step_ms",)),
        Panel(title="Model FLOPs of a rank", unit="TFLOP/s", keys=("model_tflops_per_s",)),
        Panel(title="MFU, of the card's bfloat16 peak", unit="share", keys=("mfu",)),
    ),
    "Parts of a step": (
        Panel(title="Parts of a sampled step", unit="ms", keys=tuple(map(key, (*PARTS, REST))), stacked=True),
        Panel(title="Waiting for data", unit="share", keys=("data_wait_share",)),
        Panel(title="Validation and checkpoints", unit="s", keys=("validation_s", "checkpoint_s")),
    ),
    "Balance": (
        Panel(title="Real slots in attention", unit="share", keys=("real_slots_share",)),
        Panel(title="Distinct ids", unit="share", keys=("distinct_ids_share",)),
        Panel(title="Rows asked of the busiest rank", unit="× mean", keys=("busiest_rank_over_mean",), from_zero=False),
    ),
    "Training": (
        Panel(title="Loss", unit="", keys=("loss",), from_zero=False),
        Panel(title="Loss of each objective", unit="", pattern=r"loss/\w+", from_zero=False),
        Panel(title="Gradient norm", unit="", keys=("grad_norm",), from_zero=False),
        Panel(title="Learning rates", unit="", keys=("lr", "table_lr")),
        Panel(title="Validation NDCG", unit="NDCG@10", keys=("validation_ndcg@10",), from_zero=False),
        Panel(title="Validation HIT", unit="HIT@10", keys=("validation_hit@10",), from_zero=False),
    ),
    "Memory": (
        Panel(title="Host, fullest rank", unit="GB", keys=("host_gb", "peak_host_gb")),
        Panel(title="GPU, fullest rank", unit="GB", keys=("gpu_gb", "peak_gpu_gb")),
    ),
    "Ranks": (
        Panel(title="Users of each rank", unit="users/s", pattern=r"rank/\d+/users_per_s"),
        Panel(title="Targets of each rank", unit="targets/s", pattern=r"rank/\d+/targets_per_s"),
        Panel(title="History tokens of each rank", unit="tokens/s", pattern=r"rank/\d+/tokens_per_s"),
        Panel(title="Waiting for data, each rank", unit="share", pattern=r"rank/\d+/data_wait_share"),
        Panel(title="Host memory of each rank", unit="GB", pattern=r"rank/\d+/host_gb"),
    ),
}
