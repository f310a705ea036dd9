"""MiNet for rankings (Ouyang et al., "MiNet: Mixed Interest Network for Cross-Domain Click-Through Rate Prediction",
CIKM 2020).

As published, a user is three interests: the profile (long-term, across domains), and the clicks of the source and of
the target domain, each pooled by item-level attention, that of the source through a transfer matrix. Interest-level
attention, a gate for each, weights the three, and a perceptron follows.

What differs, because the published model scores one candidate at a time and here a dot product ranks the whole
catalogue: attention and gates cannot see the candidate, and the latest click of the target domain stands in its place;
the perceptron makes a user vector, not a click-through rate. That is a substitute, and the weaker for it. The auxiliary
task of predicting source-domain clicks is left out: these are a label space of the data (``prepare --labels.NAME``),
in no order that means anything, and what was shown and not clicked is not known.

Shapes: B users, P contexts, k clicks of a domain, D width, x features of a profile, S source items.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.batch import Batch
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.manifest import LabelSpace
from ppr_dist.errors import UserError, require_positive
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.tuning.user_model import UserModelMethod

MOST_SOURCE_ITEMS = 50_000
"""Their vectors are a parameter of the engine, whole on every rank."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """MiNet's interests. Defaults are those of the public code (oywtece/minet)."""

    source: str | None = None
    """Label space that holds the clicks of the source domain; null = the largest that is not predicted."""
    target_clicks: int = 10
    """Latest clicks that are attended to."""
    source_clicks: int = 20
    """Clicks of the source domain that are attended to: of more, as many at random, the same in every step."""
    attention: int = 64
    """Hidden units of item-level attention and of each gate."""
    hidden: int = 256
    """Units of the perceptron's first hidden layer; its second has half as many."""

    def __post_init__(self) -> None:
        require_positive(self, "minet", "target_clicks", "source_clicks", "attention")
        if self.hidden < 2:
            raise UserError(f"minet.hidden must be at least 2, not {self.hidden}")


class MiNet(UserModelMethod):
    """Interests of profile, target and source domain, weighted by gates."""

    section = Settings
    profile_uses = ("minet",)

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.settings = config.part("minet", Settings)

    @classmethod
    def reads_labels(cls, config: Config, catalogue: Catalogue) -> tuple[LabelSpace, ...]:
        name, spaces = config.part("minet", Settings).source, catalogue.known_labels
        if name is None:
            return tuple(sorted(spaces, key=lambda space: space.size)[-1:])
        found = tuple(space for space in spaces if space.name == name)
        if not found:
            there = ", ".join(space.name for space in spaces) or "none"
            raise UserError(f"minet.source {name!r}: no label space to read; there is {there} (prepare --labels.NAME)")
        return found

    def user_model(self, model: SequentialModel) -> nn.Module:
        source = next(iter(self.reads_labels(self.config, self.catalogue)), None)
        if source and source.size > MOST_SOURCE_ITEMS:
            raise UserError(
                f"minet.source {source.name!r} has {source.size:,} items; at most {MOST_SOURCE_ITEMS:,} are possible"
            )
        return Interests(self.features, model.dim, self.settings, source)


class Interests(nn.Module):
    """A user vector from a profile, clicks and clicks of a source domain; without one of these, from the others."""

    def __init__(self, features: int, dim: int, settings: Settings, source: LabelSpace | None) -> None:
        super().__init__()
        self.settings, self.dim, self.features = settings, dim, features
        self.source = source and source.name
        self.target_attention = Attention(dim, features, settings.attention)
        interests = {"profile": features, "target": dim}
        if source:
            self.source_items = nn.Parameter(torch.randn(source.size, dim) * 0.02)
            self.source_attention = Attention(dim, features, settings.attention, transfer=True)
            interests["source"] = dim
        inputs = dim + sum(interests.values())
        gates = {name: _perceptron(inputs, settings.attention, 1) for name in interests}
        nn.init.ones_(gates["profile"][-1].get_parameter("bias"))  # as in the public code
        self.gates = nn.ModuleDict(gates)
        self.net = _perceptron(inputs, settings.hidden, settings.hidden // 2, dim)

    def forward(self, items: Tensor, batch: Batch, profiles: dict[str, Tensor]) -> Tensor:
        """User vectors of a batch's targets [P, D], each from the clicks before it.

        Args:
            items: vectors of batch.item_ids, as they are scored [U, D].
        """
        rows = batch.user_rows
        profile = torch.cat([items.new_zeros(len(batch.users), 0), *profiles.values()], 1).index_select(0, rows)
        clicks, clicked = self._target_clicks(items, batch)
        latest = clicks[:, 0]  # 0 where there is none
        interests = {"profile": profile, "target": self.target_attention(clicks, clicked, latest, profile)}
        if self.source is not None:
            ids, known = self._source_clicks(batch)
            source = F.embedding(ids, self.source_items).index_select(0, rows)
            interests["source"] = self.source_attention(source, known.index_select(0, rows), latest, profile)
        seen = torch.cat([latest, *interests.values()], 1)
        gated = [self.gates[name](seen).exp() * interest for name, interest in interests.items()]
        user: Tensor = self.net(torch.cat([latest, *gated], 1))
        return user

    def _target_clicks(self, items: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The last clicks of each context, latest first, zeros behind them [P, k, D]; which of them there are."""
        history = batch.history
        start = history.lengths.cumsum(0) - history.lengths
        back = torch.arange(self.settings.target_clicks, device=items.device)
        there = back < batch.context_lengths[:, None]
        place = (start[batch.user_rows] + batch.context_lengths)[:, None] - 1 - back
        rows = F.pad(history.items, (0, 1)).index_select(0, torch.where(there, place, 0).flatten()).view_as(place)
        return F.embedding(rows, items) * there[:, :, None], there

    def _source_clicks(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each user's clicks of the source domain, of what is not there some item [B, k]; which of them there are."""
        k, device = self.settings.source_clicks, batch.user_rows.device
        if self.source not in batch.labels:
            nothing = torch.zeros(len(batch.users), k, dtype=torch.int64, device=device)
            return nothing, nothing > 0
        labels = batch.labels[self.source]
        each = torch.arange(k, device=device)
        there = each < labels.lengths[:, None]
        place = (labels.lengths.cumsum(0) - labels.lengths)[:, None] + each
        ids = F.pad(labels.values, (0, 1)).index_select(0, torch.where(there, place, 0).flatten()).view_as(place)
        return ids, there

    def flops(self, contexts: float) -> float:
        """Forward and backward."""
        settings, x, d, h = self.settings, self.features, self.dim, self.settings.attention
        of_a_click, of_a_context = 2 * d * h + h, (d + x) * h
        weights = settings.target_clicks * of_a_click + of_a_context
        if self.source is not None:
            weights += settings.source_clicks * (of_a_click + d * d) + of_a_context
        weights += sum(p.numel() for part in (self.gates, self.net) for p in part.parameters() if p.dim() > 1)
        return 2.0 * 3 * contexts * weights


class Attention(nn.Module):
    """Clicks pooled by weights that a hidden layer makes of each of them, the query, and how alike they are."""

    def __init__(self, dim: int, features: int, hidden: int, *, transfer: bool = False) -> None:
        super().__init__()
        self.transfer = nn.Linear(dim, dim, bias=False) if transfer else None
        self.of_click = nn.Linear(2 * dim, hidden)
        self.of_user = nn.Linear(dim + features, hidden, bias=False)
        self.out = nn.Linear(hidden, 1, bias=False)

    def forward(self, clicks: Tensor, there: Tensor, query: Tensor, profile: Tensor) -> Tensor:
        """[P, k, D], bool [P, k], [P, D], [P, x] → [P, D]; 0 where there are no clicks."""
        alike = (clicks if self.transfer is None else self.transfer(clicks)) * query[:, None]
        of_user = self.of_user(torch.cat([query, profile], 1))
        scores = self.out(F.relu(self.of_click(torch.cat([clicks, alike], 2)) + of_user[:, None])).squeeze(2)
        # Not −∞: of no click at all the softmax is to be a number, whose gradient is one too.
        weights = scores.masked_fill(~there, torch.finfo(scores.dtype).min).softmax(1) * there
        return torch.einsum("pk,pkd->pd", weights, clicks)


def _perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for before, after in itertools.pairwise(widths[1:]):
        layers += [nn.ReLU(), nn.Linear(before, after)]
    return nn.Sequential(*layers)
