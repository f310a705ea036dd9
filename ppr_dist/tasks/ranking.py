"""What the tasks share that rank the item which came next.

Shapes: I instances of this rank, D width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppr_dist.data.stream.instances import (
    Instances,
    clicked_before,
    excluded,
    history_batch,
    sampled_negatives,
    unclicked,
)
from ppr_dist.data.stream.users import Users
from ppr_dist.errors import UserError, warn
from ppr_dist.metrics import METRICS, USUAL
from ppr_dist.metrics.base import Ranked, zeros
from ppr_dist.protocol import negatives
from ppr_dist.scoring import gather_queries, passes, rank_among, rank_in_catalogue, top_k
from ppr_dist.tasks.base import Evaluated, Evaluation, Task


class RankingTask(Task):
    """Ranks each instance's target among the catalogue, or among negatives (``evaluation.protocol``).

    For a user without clicks a model that knows no profiles gives no order: all items tie, and the target counts as
    ranked last. Where it is so of all instances, the metrics are not defined (None).
    """

    def instances(self, users: Users) -> Instances:
        """After which clicks of whom is asked."""
        raise NotImplementedError

    def asked(self, evaluation: Evaluation, users: Users) -> Instances:
        """Those of :meth:`instances` that are measured: by default all."""
        return self.instances(users)

    def metric_names(self) -> tuple[str, ...]:
        return USUAL

    def sums(self, evaluation: Evaluation, users: Users) -> dict[str, Tensor]:
        items, scorer, sampled = evaluation.manifest.items, evaluation.scorer, negatives(evaluation.protocol)
        instances = self.asked(evaluation, users)
        found, again = len(instances.user_rows), clicked_before(instances)
        counts = {"found": found, "seen": int(again.sum()), "unsampled": 0, "ranked_last": 0}
        if not evaluation.seen_targets:
            instances = instances.select(~again)
        if sampled is not None:
            enough = unclicked(instances, items) >= sampled
            counts["unsampled"] = int((~enough).sum())
            instances = instances.select(enough)
        counts["left_out"] = found - len(instances.user_rows)
        if scorer.needs_clicks:
            counts["ranked_last"] = int((instances.context_lengths == 0).sum())
        counts["users"] = len(np.unique(instances.user_rows))
        counts["instances"] = len(instances.user_rows)
        sums = {name: zeros(METRICS[name], items) for name in evaluation.metrics}
        max_length = evaluation.config.model.max_length
        vectors = scorer.user_vectors(history_batch(instances, max_length, target_time=evaluation.target_time))
        for rows in passes(len(vectors), scorer.device, gathered=sampled is None):
            ranked, best = _rank(evaluation, instances.select(rows), vectors[rows])
            if best is not None and scorer.needs_clicks:
                best[torch.from_numpy(ranked.positions == 0)] = -1  # which of equal scores come first says nothing
            of_metrics = Ranked(
                rank=torch.from_numpy(ranked.ranks),
                candidates=torch.from_numpy(ranked.candidates),
                items=items,
            )
            for name in evaluation.metrics:
                metric = METRICS[name]
                shown = best[:, : metric.needs_best] if best is not None and metric.needs_best else None
                sums[name] += metric.sums(dataclasses.replace(of_metrics, best=shown))
            if evaluation.keep:
                evaluation.keep(ranked)
        return {name: torch.tensor(float(count), dtype=torch.float64) for name, count in counts.items()} | sums

    def finish(self, evaluation: Evaluation, sums: dict[str, Tensor]) -> dict[str, Any]:
        counted = ("found", "seen", "unsampled", "left_out", "users", "instances", "ranked_last")
        found, seen, unsampled, left_out, users, instances, ranked_last = (int(sums.pop(name)) for name in counted)
        sampled = negatives(evaluation.protocol)
        if not instances:
            reason = f"no {evaluation.task} instance in split {evaluation.split!r}"
            if unsampled:
                reason = (
                    f"no user leaves {sampled} of {evaluation.manifest.items} items unclicked to sample from; "
                    "use --protocol full"
                )
            elif found:
                reason = f"every {evaluation.task} target was clicked before"
            raise UserError(f"{evaluation.data}: {reason}")
        if unsampled and evaluation.speaks:
            few = f"{unsampled} of {found} {evaluation.task} instances are left out"
            warn(f"{few}: their users leave fewer than {sampled} items unclicked to sample from")
        metrics: dict[str, float | None] = {
            name: None if ranked_last == instances else METRICS[name].finish(value, instances)
            for name, value in sums.items()
        }
        counts = {"seen_targets": seen, "left_out": left_out, "ranked_last": ranked_last}
        return {"users": users, "instances": instances, **metrics, **counts}


def _rank(evaluation: Evaluation, instances: Instances, vectors: Tensor) -> tuple[Evaluated, Tensor | None]:
    """Rank one pass of instances, given their user vectors [I, D]; the best items too, where a metric asks for them.

    A collective.
    """
    best = None
    scorer, items = evaluation.scorer, evaluation.manifest.items
    targets = torch.from_numpy(instances.targets).to(scorer.device)
    sampled = negatives(evaluation.protocol)
    if sampled is None:
        rows, dropped = excluded(instances)
        queries = gather_queries(vectors, rows, dropped)
        ranks = rank_in_catalogue(scorer, queries, targets, items).cpu().numpy()
        candidates = items - np.bincount(rows, minlength=len(ranks)) + 1
        ranks = np.minimum(ranks, candidates)  # more only where scores are not numbers
        if needed := max(METRICS[name].needs_best for name in evaluation.metrics):
            others, _ = top_k(scorer, queries, items, needed)
            best = with_target(others.cpu(), targets.cpu(), torch.from_numpy(ranks))
    else:
        others = torch.from_numpy(sampled_negatives(instances, items, sampled, evaluation.seed)).to(scorer.device)
        ranks = rank_among(scorer, vectors, targets, others).cpu().numpy()
        candidates = np.full(len(ranks), sampled + 1)
    users = instances.users.index[instances.user_rows]
    return Evaluated(users, instances.context_lengths, instances.targets, ranks, candidates), best


def with_target(others: Tensor, targets: Tensor, ranks: Tensor) -> Tensor:
    """Put each target at its rank (1 = best) among the best ``others`` [I, K]; int64 [I, K], the last drops out."""
    place, column = ranks[:, None] - 1, torch.arange(others.shape[1])
    shifted = torch.cat([others[:, :1], others[:, :-1]], dim=1)  # what stood one place before
    return torch.where(column < place, others, torch.where(column == place, targets[:, None], shifted))


def last_but(back: int, users: Users) -> Instances:
    """Each user's last click but ``back`` − 1, of users with a click before it."""
    clicks = users.lengths
    user_rows = np.flatnonzero(clicks > back)
    return Instances(users, user_rows, clicks[user_rows] - back)
