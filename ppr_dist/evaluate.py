"""``python -m ppr_dist.evaluate``: rank held-out clicks, print one JSON line for each task, write predictions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ppr_dist import cli, options
from ppr_dist.data.remote import DataFolder
from ppr_dist.protocol import check_protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    run_dir: Path
    """A pre-trained or tuned run."""
    task: list[str]
    """few-shot, zero-shot, joint (cold test users), next-item, cold-item, validation (warm users), attribute, labels
    (runs of that objective); one or several."""
    data: DataFolder | None = None
    """Folder that prepare wrote; by default the one the run was trained on."""
    init: Path | None = None
    """Of a tuned run that holds only what was tuned: the pre-trained run, where it no longer lies where it was."""
    cluster: Path | None = None
    """Cluster file (sharding/*.yaml) to place the tables by; by default the run's own, else what this machine has."""
    protocol: str = "sampled-99"
    """sampled-N: rank the target among N uniform unclicked items; full: among the whole catalogue but what the user had
    seen."""
    metrics: list[str] | None = None
    """Metrics to report (ppr_dist/metrics), such as hit@10: auc, and hit, ndcg and mrr at 5, 10, 20 and 50, by default
    all of these; and hit@1."""
    predictions: Path | None = None
    """Parquet data set to write, a folder of part files: user_id, position (clicks before the target), item_id, rank
    (1 = best), candidates; in the order of user index and position."""
    baseline: Literal["popularity", "first-clicks", "content"] | None = None
    """Score by this baseline in place of the model: an item's clicks in pre-training; how often it was the first click
    of a user whom training may see; or how its features fit those of the user's clicks, without any training."""
    leave_out_seen: bool = False
    """Leave out instances whose target the user had clicked before; how many there are is said either way."""
    target_time: bool | None = None
    """Whether the model sees when the target was clicked; by default as it was trained. Every line says which."""
    batch: int = 1024
    """Users each rank reads at once."""
    seed: int = 0
    """Seed of the sampled negatives."""
    progress: bool = True
    """Show a progress bar on rank 0."""

    def __post_init__(self) -> None:
        check_protocol(self.protocol)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    (arguments,), _ = options.parse("ppr_dist.evaluate", argv, [Arguments])
    # Imported once the options are read: torch, TorchRec and DeepSpeed take seconds, and --help needs none of them.
    from ppr_dist import evaluation

    return evaluation.evaluate_run(arguments)


if __name__ == "__main__":
    cli.run(main)
