"""Predict users' labels from their clicks, by a run with the objective ``labels``: each label space by a protocol of
its own, and a line for each.

Shapes: n users with a label, C labels of a space, P (user, label) pairs, N negatives of a pair, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppr_dist.config import Config
from ppr_dist.data.manifest import LABELS, LabelSpace, Manifest
from ppr_dist.data.stream.instances import Instances, excluded, history_batch, sampled_negatives, unclicked
from ppr_dist.data.stream.padding import ragged_arange
from ppr_dist.data.stream.users import Users
from ppr_dist.errors import UserError, warn
from ppr_dist.metrics import METRICS
from ppr_dist.metrics.base import Ranked
from ppr_dist.objectives.labels import head_name, is_table
from ppr_dist.protocol import negatives
from ppr_dist.scoring import (
    SCORE_CHUNK,
    LabelItems,
    ModelScorer,
    gather_queries,
    passes,
    rank_among,
    rank_in_catalogue,
)
from ppr_dist.tasks import classification
from ppr_dist.tasks.base import Evaluation, Task

CLASSIFICATION = "classification"
SCORE = "ndcg@10"
"""What a space whose labels are ranked counts in the score."""


class Labels(Task):
    """Where no user has two labels of a space: accuracy and the rest, as of an attribute. Where some have, and where
    the space is a table: each label is ranked (``evaluation.protocol``), the user's others left out. A user without a
    label is not asked.

    ``score`` is the mean over the spaces of accuracy, or of NDCG@10.
    """

    protocol = "by label space"
    best_metric = "score"
    has_targets = False

    def metric_names(self) -> tuple[str, ...]:
        return ("score",)

    def check(self, config: Config, *, by_model: bool) -> None:
        if LABELS not in config.train.objectives:
            raise UserError("--task labels needs a run trained with --train.objectives labels")
        if not by_model:
            raise UserError("--task labels is not answered by a --baseline")

    def sums(self, evaluation: Evaluation, users: Users) -> dict[str, Tensor]:
        assert isinstance(evaluation.scorer, ModelScorer)
        everyone = Instances(users, np.arange(len(users)), users.lengths)
        batch = history_batch(everyone, evaluation.config.model.max_length)
        heads = evaluation.scorer.encode(batch).heads
        sums: dict[str, Tensor] = {}
        for space in evaluation.manifest.labels:
            if head_name(space.name) in heads:  # else the run was not to predict it
                scored = heads[head_name(space.name)]
                scored = scored[batch.user_rows.to(scored.device)]  # the batch has its users in another order
                found = (_rank if _is_ranked(evaluation, space) else _classify)(evaluation, space, users, scored)
                sums |= {f"{space.name}.{name}": value for name, value in found.items()}
        return sums

    def finish(self, evaluation: Evaluation, sums: dict[str, Tensor]) -> dict[str, Any]:
        lines: dict[str, Any] = {}
        scores = []
        for space in evaluation.manifest.labels:
            ranked, own = _is_ranked(evaluation, space), _of_space(space.name, sums)
            figures = (_ranked if ranked else _classified)(evaluation, space, own) if own else {}
            if figures:
                scores.append(figures.pop("score"))
                lines |= {f"{space.name}.{name}": value for name, value in figures.items()}
        if not scores:
            raise UserError(f"{evaluation.data}: no user of split {evaluation.split!r} has a label to predict")
        return {"score": sum(scores) / len(scores), **lines}

    def lines(self, figures: dict[str, Any], protocol: str) -> list[dict[str, Any]]:
        found = []
        for space in dict.fromkeys(name.split(".")[0] for name in figures if "." in name):
            own = _of_space(space, figures)
            how = {"task": f"{LABELS}.{space}", "protocol": protocol if "instances" in own else CLASSIFICATION}
            found.append({**how, **own, "target_time": figures["target_time"]})
        return found

    def candidates(self, manifest: Manifest, line: dict[str, Any]) -> str:
        (size,) = (space.size for space in manifest.labels if line["task"] == f"{LABELS}.{space.name}")
        if count := negatives(line["protocol"]):
            return f"the label and {count} uniform others"
        everything = line["protocol"] == "full"
        return f"all {size} labels but the user's others" if everything else super().candidates(manifest, line)


def _is_ranked(evaluation: Evaluation, space: LabelSpace) -> bool:
    """Whether its labels are ranked, and not classified."""
    return space.most > 1 or is_table(space, evaluation.config)


def _of_space(space: str, figures: dict[str, Any]) -> dict[str, Any]:
    """What is said of a space, under names without it (``orders.users``)."""
    prefix = f"{space}."
    return {name.removeprefix(prefix): value for name, value in figures.items() if name.startswith(prefix)}


def _classify(evaluation: Evaluation, space: LabelSpace, users: Users, logits: Tensor) -> dict[str, Tensor]:
    """Counts of right and wrong; logits [n, C] of all users."""
    labels = users.labels[space.name]
    predicted = logits.argmax(1).cpu()[torch.from_numpy(np.flatnonzero(labels.lengths))]
    return {"counts": classification.counts(predicted, torch.tensor(labels.values), space.size)}


def _classified(evaluation: Evaluation, space: LabelSpace, sums: dict[str, Tensor]) -> dict[str, Any]:
    users = int(sums["counts"][2].sum())
    if not users:
        return _nothing(evaluation, space)
    figures = classification.figures(sums["counts"])
    return {"users": users, **figures, "score": figures["accuracy"]}


def _rank(evaluation: Evaluation, space: LabelSpace, users: Users, scored: Tensor) -> dict[str, Tensor]:
    """Sums of ranking metrics; of all users logits [n, C], or their vectors [n, D] where the space is a table."""
    labels = users.labels[space.name]
    of_users = Users(users.index, labels.values, labels.offsets, users.attributes)  # in the place of clicks
    asked = Instances(of_users, *ragged_arange(labels.lengths))
    found = len(asked.user_rows)
    others = None
    if count := negatives(evaluation.protocol):
        asked = asked.select(unclicked(asked, space.size) >= count)
        others = torch.from_numpy(sampled_negatives(asked, space.size, count, evaluation.seed)).to(scored.device)
        candidates = torch.full((len(asked.user_rows),), count + 1)
    else:
        candidates = torch.from_numpy(space.size + 1 - labels.lengths[asked.user_rows])
    # Counted from below: ties, and scores that are no numbers, count against the model.
    if is_table(space, evaluation.config):
        assert isinstance(evaluation.scorer, ModelScorer)
        items = LabelItems(evaluation.scorer.embeddings, space.name, scored.device)
        rank = torch.minimum(_rank_in_table(items, space.size, scored, asked, others), candidates)
    else:
        rank = candidates - (_below_full(scored, asked) if others is None else _below_sampled(scored, asked, others))
    ranked = Ranked(rank=rank, candidates=candidates, items=space.size)
    counts = {
        "found": found,
        "users": len(np.unique(asked.user_rows)),
        "instances": len(asked.user_rows),
    }
    metrics = {name: METRICS[name].sums(ranked) for name in _metrics(evaluation)}
    return {name: torch.tensor(float(count), dtype=torch.float64) for name, count in counts.items()} | metrics


def _rank_in_table(items: LabelItems, size: int, vectors: Tensor, asked: Instances, others: Tensor | None) -> Tensor:
    """Rank of each label among its negatives [P, N], or among all labels that its user does not have, int64 [P].

    ``vectors`` of users [n, D]; ``asked``: where there are no negatives, all labels of users. A collective.
    """
    rows, targets = _pairs(asked, vectors.device)
    ranks = [targets[:0]]
    for part in passes(len(rows), vectors.device, gathered=others is None):
        of_users = vectors[rows[part]]
        if others is not None:
            ranks.append(rank_among(items, of_users, targets[part], others[part]))
            continue
        who = asked.user_rows[part]
        everything = Instances(asked.users, who, asked.users.lengths[who] - 1)  # the last label and those before it
        queries = gather_queries(of_users, *excluded(everything))
        ranks.append(rank_in_catalogue(items, queries, targets[part], size))
    return torch.cat(ranks).cpu()


def _below_sampled(logits: Tensor, asked: Instances, others: Tensor) -> Tensor:
    """How many of its own negatives [P, N] score below each label, int64 [P]."""
    rows, targets = _pairs(asked, logits.device)
    below = logits[rows[:, None], others] < logits[rows, targets][:, None]
    return below.sum(1).cpu()


def _below_full(logits: Tensor, asked: Instances) -> Tensor:
    """How many labels that its user does not have score below each label, int64 [P]; ``asked``: all labels of users."""
    rows, targets = _pairs(asked, logits.device)
    others = logits.index_put((rows, targets), logits.new_tensor(torch.inf))
    at_once = max(1, SCORE_CHUNK[logits.device.type] // logits.shape[1])
    parts = zip(rows.split(at_once), logits[rows, targets].split(at_once), strict=True)
    return torch.cat([(others[row] < target[:, None]).sum(1) for row, target in parts]).cpu()


def _pairs(asked: Instances, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of users and labels, int64 [P] each."""
    return torch.from_numpy(asked.user_rows).to(device), torch.from_numpy(asked.targets).to(device)


def _ranked(evaluation: Evaluation, space: LabelSpace, sums: dict[str, Tensor]) -> dict[str, Any]:
    found, users, instances = (int(sums[name]) for name in ("found", "users", "instances"))
    if not found:
        return _nothing(evaluation, space)
    few = f"whose users leave fewer than {negatives(evaluation.protocol)} of its {space.size} labels to sample from"
    if not instances:
        raise UserError(f"{evaluation.data}: label space {space.name!r} has only labels {few}; use --protocol full")
    if instances < found and evaluation.speaks:
        warn(f"{found - instances} of {found} labels of {space.name!r} are left out, {few}")
    figures = {name: METRICS[name].finish(sums[name], instances) for name in _metrics(evaluation)}
    asked = {name: value for name, value in figures.items() if name in evaluation.metrics}
    left_out = found - instances
    return {"users": users, "instances": instances, **asked, "left_out": left_out, "score": figures[SCORE]}


def _metrics(evaluation: Evaluation) -> list[str]:
    """Ranking metrics that are computed; those of lists of best items are of items alone."""
    return [name for name in dict.fromkeys([*evaluation.metrics, SCORE]) if not METRICS[name].needs_best]


def _nothing(evaluation: Evaluation, space: LabelSpace) -> dict[str, Any]:
    if evaluation.speaks:
        warn(f"no user of split {evaluation.split!r} has a label of {space.name!r}")
    return {}
