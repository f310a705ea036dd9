"""Predict the labels that the data knows of users: each label space is a table scored by u·w_y (PeterRec, SIGIR 2020,
§3; Conure, SIGIR 2021, §3). A small one is a bias-free linear layer in the engine, with a softmax over all of its
labels; a large one is sharded as items are, with a softmax over candidates (:mod:`ppr_dist.objectives.label_tables`).

Shapes: B users of this rank, K labels of theirs in a space, C labels that the space has, S spaces, W ranks; N
candidates of a rank, u distinct labels that it looks up, D width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.manifest import LABELS, LabelSpace
from ppr_dist.data.stream.padding import ragged_arange
from ppr_dist.data.stream.step_users import Drawn, StepUsers
from ppr_dist.errors import UserError
from ppr_dist.loss.softmax import among, merged, sampled_softmax
from ppr_dist.objectives import label_tables
from ppr_dist.objectives.base import Cost, Objective, Step, StepShape
from ppr_dist.objectives.candidates import given, require_candidates
from ppr_dist.parallel.collectives import AsyncAllGather


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The label spaces to predict."""

    names: list[str] | None = None
    """As ``prepare --labels.NAME`` named them; null = all that the data has."""
    dense_up_to: int = 50_000
    """Most labels of a space that is a layer on every rank, compared with all of them; a larger one is a sharded table,
    compared with candidates. Beyond some 10^4 a batch's logits weigh more than the model."""
    uniform_negatives: int = 512
    """Of a table: uniform candidates shared by the whole batch, summed over ranks."""
    in_batch_per_user: int = 4
    """Of a table: labels of each user that serve as candidates for every user of every rank; 0 = none."""
    in_batch_users: int = 4_096
    """Most users of a step whose labels serve; of a larger batch as many are drawn."""

    def __post_init__(self) -> None:
        require_candidates(self, "labels")


class Labels(Objective):
    """Σ over spaces of the mean of −log softmax over the labels of all users; a user without a label has no target.

    In a table a label is not compared with the user's other labels.
    """

    name = LABELS
    section = Settings
    task = LABELS
    scores_items = False

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.settings = config.part(self.name, Settings)
        self.spaces = catalogue.labels
        self.tables = tuple(space for space in self.spaces if is_table(space, config))
        self.travel_as = torch.bfloat16 if config.tables.exchange == "bfloat16" else None
        for space in self.spaces:
            if space.size < 2:
                raise UserError(f"labels: space {space.name!r} has {space.size} label; it takes 2 or more")

    @classmethod
    def label_spaces(cls, config: Config, there: tuple[LabelSpace, ...]) -> tuple[LabelSpace, ...]:
        known = {space.name: space for space in there}
        names = config.part(cls.name, Settings).names
        names = list(known) if names is None else list(dict.fromkeys(names))
        if not names or not set(names) <= set(known):
            asked = ", ".join(names) or "none"
            raise UserError(f"labels.names: {asked}; the data has label spaces {', '.join(known) or 'none'}")
        return tuple(known[name] for name in names)

    def heads(self, dim: int) -> dict[str, nn.Module]:
        # Of a table the user vector itself: what it is scored against is not in the engine.
        return {
            head_name(space.name): nn.Identity() if space in self.tables else nn.Linear(dim, space.size, bias=False)
            for space in self.spaces
        }

    def draw(self, users: StepUsers) -> Drawn:
        labels = {space.name: users.labels[space.name] for space in self.spaces}
        tensors = {"counts": np.array([len(each.values) for each in labels.values()])}  # K of each space, [S]
        for name, each in labels.items():
            tensors |= {f"{name}.users": ragged_arange(each.lengths)[0], f"{name}.labels": each.values}
        label_ids = {}
        for space in self.tables:
            label_ids[space.name], drawn = label_tables.draw(users, space, self.settings)
            tensors |= {f"{space.name}.{name}": array for name, array in drawn.items()}
        return Drawn(label_ids=label_ids, tensors=tensors)

    def count(self, batch: Batch) -> Tensor:
        return batch.drawn[self.name]["counts"].sum()

    def to_exchange(self, batch: Batch) -> Tensor:
        """Labels in each space, and the candidates of the tables, int64 [S + Σ N]."""
        drawn = batch.drawn[self.name]
        candidates = [drawn[f"{space.name}.{kind}"] for space in self.tables for kind in ("lent", "uniform")]
        return torch.cat([drawn["counts"], *candidates])

    def start(self, batch: Batch, items: Tensor, labels: Mapping[str, Tensor]) -> AsyncAllGather | None:
        if not self.tables:
            return None
        rows = {space.name: batch.drawn[self.name][f"{space.name}.candidates"] for space in self.tables}
        return AsyncAllGather(torch.cat([labels[name].index_select(0, rows[name]) for name in rows]), self.travel_as)

    def sum(self, step: Step) -> Tensor:
        # What is returned is divided by the labels of all spaces and ranks; each space is to have a mean of its own.
        in_tables = self._in_tables(step)
        of_each = [in_tables[s] if s in in_tables else self._in_layer(step, s.name) for s in self.spaces]
        sums = torch.stack(of_each)  # [S]
        of_space, all_of_them = step.exchanged.integers[:, : len(sums)].sum(0), step.exchanged.counts.sum()
        means = sums / of_space.clamp(min=1).to(sums.dtype)
        return means.sum() * all_of_them.clamp(min=1).to(sums.dtype)

    def _in_tables(self, step: Step) -> dict[LabelSpace, Tensor]:
        """Σ −log softmax over this rank's labels, of each space that is a table."""
        if step.started is None:
            return {}
        drawn, ids = step.batch.drawn[self.name], step.exchanged.integers[:, len(self.spaces) :]
        sizes = [len(drawn[f"{space.name}.candidates"]) for space in self.tables]
        vectors = step.started.wait().unflatten(0, (len(ids), -1))
        parts = zip(self.tables, ids.split(sizes, 1), vectors.split(sizes, 1), strict=True)
        return {space: self._in_table(step, space, *candidates) for space, *candidates in parts}

    def _in_table(self, step: Step, space: LabelSpace, ids: Tensor, candidates: Tensor) -> Tensor:
        """Of one of them; candidates of all ranks: ``ids`` int64 [W, N], vectors [W, N, D]."""
        name, drawn = space.name, step.batch.drawn[self.name]
        share = label_tables.uniform_draws(space, self.settings) / space.size
        log_q = label_tables.log_expected(ids, len(drawn[f"{name}.lent"]), math.log(share) if share else -math.inf)
        candidates, ids, log_q = merged(candidates.flatten(0, 1), ids.flatten(), log_q.flatten())
        user, labels, users = step.encoded.heads[head_name(name)], drawn[f"{name}.labels"], drawn[f"{name}.users"]
        return sampled_softmax(
            user.index_select(0, users),
            step.labels[name].index_select(0, drawn[f"{name}.rows"]),
            candidates,
            positive_ids=labels,
            candidate_ids=ids,
            log_q=log_q,
            temperature=self.scores.temperature,
            logit_chunk=self.scores.logit_chunk,
            precision=self.scores.precision,
            excluded=(among(ids, labels, users, len(user)), users),
        )

    def _in_layer(self, step: Step, name: str) -> Tensor:
        """Σ −log softmax over this rank's labels of a space that is a layer."""
        logits = step.encoded.heads[head_name(name)] / self.scores.temperature  # [B, C]
        drawn = step.batch.drawn[self.name]
        users, labels = drawn[f"{name}.users"], drawn[f"{name}.labels"]  # [K]
        return logits.logsumexp(1).index_select(0, users).sum() - logits[users, labels].sum()

    def cost(self, shape: StepShape) -> Cost:
        # As if each user had one label of each space.
        w, compared, received = shape.world_size, 0, 0.0
        row = 8 + 2 * shape.travelling * shape.dim  # its id, its vector and the gradient of that
        for space in self.spaces:
            if space not in self.tables:
                compared += space.size
                continue
            lent, uniform = given(self.settings, shape, label_tables.lent_per_user(space, self.settings))
            compared += w * (lent + uniform)
            # What is drawn lies on this rank, but for the edges of its part, where the table is cut by rows.
            received += row * ((w - 1) * (lent + uniform) + (w - 1) / w * shape.users)
        return Cost(bytes=received, flops=2 * 3 * shape.users * shape.dim * compared)


def is_table(space: LabelSpace, config: Config) -> bool:
    """Whether a label space that is predicted has a sharded table, and not a layer on every rank."""
    return space.size > config.part(LABELS, Settings).dense_up_to


def head_name(space: str) -> str:
    """The head of a label space."""
    return f"{LABELS}-{space}"
