"""DenseTower: everything dense in one module, so that it can live in one DeepSpeed engine.

Shapes: B users, T tokens of their histories, U distinct items, D width, n prompt tokens, m attributes of width d each,
P targets. A view of the batch has R = T + B·n rows: each user's prompt, then its history.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.batch import Batch, Group
from ppr_dist.config import Model, Prompt
from ppr_dist.model.backbone import Backbone
from ppr_dist.model.dropout import Dropout
from ppr_dist.model.sequences import Rectangle, place, take


@dataclasses.dataclass(frozen=True)
class Views:
    """Final states for the contrastive loss, each [B, D]."""

    state: Tensor
    attribute_masked: Tensor
    behaviour_masked: Tensor


class ProfileMLP(nn.Module):
    """W2·σ(W1·x + b1) + b2 with σ = ReLU: the prompt generator (PPR eq. 3) and the profile tower."""

    def __init__(self, features: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, hidden)
        self.second = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, m·d] → [B, out]."""
        out: Tensor = self.second(F.relu(self.first(x)))
        return out


class DenseTower(nn.Module):
    """Backbone, and where tuned: prompt generator and profile tower.

    ``user vector after t items = u_a + u_s(t)`` (PPR eq. 4): u_a = tower(x_u) where there is a profile tower,
    u_s(t) the backbone's output after [prompt | first t items]; without a prompt u_s(0) = 0.
    """

    def __init__(
        self, model: Model, prompt: Prompt, *, attributes: int, with_prompt: bool, with_profile_encoder: bool
    ) -> None:
        super().__init__()
        self.model, self.tokens = model, prompt.tokens if with_prompt else 0
        self.backbone = Backbone(model.dim, model.blocks, model.heads, model.feed_forward, model.dropout)
        self.position = nn.Parameter(torch.randn(model.max_length, model.dim) * 0.02)
        self.dropout = Dropout(model.dropout)
        features = attributes * prompt.attribute_dim
        self.prompt = ProfileMLP(features, prompt.hidden, self.tokens * model.dim) if with_prompt else None
        self.tower = ProfileMLP(features, prompt.hidden, model.dim) if with_profile_encoder else None

    def freeze_backbone(self) -> None:
        """PPR-light: the pre-trained parameters do not learn."""
        self.backbone.requires_grad_(False)
        self.position.requires_grad_(False)

    def forward(
        self,
        items: Tensor,
        batch: Batch,
        prompt_profile: Tensor | None,
        tower_profile: Tensor | None,
        profile_dropout: float | None = None,
    ) -> tuple[Tensor, Views | None]:
        """Return each target's user vector [P, D] float32 and, where the batch has a masked view, the views.

        Args:
            items: vectors of batch.item_ids [U, D]; prompt_profile, tower_profile: x_u [B, m·d] or None;
            profile_dropout: γ1, where views are wanted.
        """
        dtype = self.position.dtype
        items = items.to(dtype)
        x_u = prompt_profile.to(dtype) if prompt_profile is not None else None
        views = [_View(batch.history, batch.lengths, batch.groups, x_u, self.tokens)]
        if batch.masked_history is not None and batch.masked_lengths is not None and x_u is not None:
            masked_x_u = F.dropout(x_u, profile_dropout or 0.0, self.training)
            views.append(_View(batch.history, batch.lengths, batch.groups, masked_x_u, self.tokens))
            masked = (batch.masked_history, batch.masked_lengths, batch.masked_buckets)
            views.append(_View(*masked, x_u, self.tokens))
        states = self._states(items, views)

        user = states[0].after(batch.owner, batch.prefix)
        if self.tower is not None and tower_profile is not None:
            user = user + self.tower(tower_profile.to(dtype)).index_select(0, batch.owner)
        if len(views) == 1:
            return user.float(), None
        everyone = torch.arange(len(batch.lengths), device=batch.lengths.device)
        final = [state.after(everyone, state.view.lengths) for state in states]
        return user.float(), Views(*(f.float() for f in final))

    def _states(self, items: Tensor, views: list[_View]) -> list[_States]:
        """u_s at every row of each view; all views go through the backbone together."""
        tokens = [self._tokens(items, view) for view in views]
        rectangles = [rectangle for view in views for rectangle in view.rectangles]
        states = self.backbone(torch.cat(tokens) if len(tokens) > 1 else tokens[0], rectangles)
        parts = states.split([view.rows for view in views])
        return [_States(view, part) for view, part in zip(views, parts, strict=True)]

    def _tokens(self, items: Tensor, view: _View) -> Tensor:
        """What enters the backbone, [R, D]."""
        owner, nth = view.owner, view.nth
        # The prompt has no position.
        position = nth if self.model.positions == "first" else view.lengths[owner] - 1 - nth
        tokens = F.embedding(view.history, items) * math.sqrt(self.model.dim) + F.embedding(position, self.position)
        tokens = self.dropout(tokens)
        if self.prompt is None or view.x_u is None:
            return tokens
        prompt = self.prompt(view.x_u).view(-1, self.model.dim)
        each = torch.arange(self.tokens, device=owner.device)
        rows = torch.cat([(view.start[:, None] + each).flatten(), view.start[owner] + self.tokens + nth])
        return place(torch.cat([prompt, tokens]), rows, view.rows)


def _owner_and_position(lengths: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Which sequence each of ``total`` tokens belongs to, and its number within it; total known, so nothing waits."""
    everyone = torch.arange(len(lengths), device=lengths.device)
    owner = torch.repeat_interleave(everyone, lengths, output_size=total)
    start = lengths.cumsum(0) - lengths
    return owner, torch.arange(total, device=lengths.device) - start[owner]


class _View:
    """One view of a batch's users: its rows, and how attention sees them."""

    def __init__(
        self, history: Tensor, lengths: Tensor, groups: tuple[Group, ...], x_u: Tensor | None, prompt_tokens: int
    ) -> None:
        self.history, self.lengths, self.x_u, self.prompt_tokens = history, lengths, x_u, prompt_tokens
        self.rows = len(history) + len(lengths) * prompt_tokens
        counts = lengths + prompt_tokens
        self.start = counts.cumsum(0) - counts
        """First row of each user, int64 [B]."""
        self.owner, self.nth = _owner_and_position(lengths, len(history))
        """User of each item of the histories, and its number there, int64 [T] each."""
        of_rows = _owner_and_position(counts, self.rows) if prompt_tokens else (self.owner, self.nth)
        self.rectangles = self._rectangles(groups, *of_rows)

    def _rectangles(self, groups: tuple[Group, ...], owner: Tensor, nth: Tensor) -> list[Rectangle]:
        rectangles, user, row = [], 0, 0
        for group in groups:
            width, tokens = group.width + self.prompt_tokens, group.tokens + group.users * self.prompt_tokens
            part = slice(row, row + tokens)
            full = tokens == group.users * width
            rows = None if full else (owner[part] - user) * width + nth[part]
            rectangles.append(Rectangle(group.users, width, tokens, rows))
            user, row = user + group.users, row + tokens
        return rectangles


@dataclasses.dataclass(frozen=True)
class _States:
    """The backbone's output over a view, [R, D]."""

    view: _View
    values: Tensor

    def after(self, owner: Tensor, prefix: Tensor) -> Tensor:
        """u_s of users ``owner`` after ``prefix`` items, both int64 [P], no pair twice: [P, D]."""
        last = self.view.start[owner] + self.view.prompt_tokens + prefix
        if self.view.prompt_tokens:
            return take(self.values, last - 1)
        # Without a prompt there is nothing before the first item: a row of zeros, whose gradient nobody takes.
        return take(F.pad(self.values, (0, 0, 1, 0)), torch.where(prefix > 0, last, 0))
