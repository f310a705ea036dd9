"""DenseTower: everything dense in one module, so that it can live in one DeepSpeed engine.

Shapes: B users, L longest history, U distinct items, D width, n prompt tokens, m attributes of width d each,
P targets. Slot t of a user is the state after t items (t = 0: before the first).
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.batch import Batch
from ppr_dist.config import Model, Prompt
from ppr_dist.model.backbone import Backbone


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

    ``user vector at slot t = u_a + u_s(t)`` (PPR eq. 6 and 7): u_a = tower(x_u) where there is a profile tower, u_s(t) the
    backbone's output after [prompt | first t items]; without a prompt u_s(0) = 0.
    """

    def __init__(self, model: Model, prompt: Prompt, *, attributes: int, with_prompt: bool, with_tower: bool) -> None:
        super().__init__()
        self.model, self.tokens = model, prompt.tokens if with_prompt else 0
        self.backbone = Backbone(model.dim, model.blocks, model.heads, model.feed_forward, model.dropout)
        self.position = nn.Parameter(torch.randn(model.max_length, model.dim) * 0.02)
        self.dropout = nn.Dropout(model.dropout)
        features = attributes * prompt.attribute_dim
        self.prompt = ProfileMLP(features, prompt.hidden, self.tokens * model.dim) if with_prompt else None
        self.tower = ProfileMLP(features, prompt.hidden, model.dim) if with_tower else None

    def forward(
        self,
        items: Tensor,
        batch: Batch,
        prompt_profile: Tensor | None,
        tower_profile: Tensor | None,
        attribute_mask: float | None = None,
    ) -> tuple[Tensor, Views | None]:
        """Return user vectors at ``batch.slots`` [P, D] float32 and, where the batch carries a masked view, the views.

        Args:
            items: vectors of batch.item_ids [U, D]; prompt_profile, tower_profile: x_u [B, m·d] or None;
            attribute_mask: γ1, where views are wanted.
        """
        dtype = self.position.dtype
        items = items.to(dtype)
        x_u = prompt_profile.to(dtype) if prompt_profile is not None else None
        users = len(batch.lengths)
        history, lengths = batch.history, batch.lengths
        if batch.masked_history is not None and batch.masked_lengths is not None and x_u is not None:
            # The views ride in the same forward call as three stacked batches: plain, attributes, behaviours.
            history = torch.cat([history, history, batch.masked_history])
            lengths = torch.cat([lengths, lengths, batch.masked_lengths])
            x_u = torch.cat([x_u, F.dropout(x_u, attribute_mask or 0.0, self.training), x_u])
        states = self._states(items, history, lengths, x_u)

        views = None
        if len(lengths) > users:
            final = states[torch.arange(len(lengths), device=states.device), lengths].float()
            views = Views(*final.split(users))
        user = states[:users].reshape(-1, self.model.dim).index_select(0, batch.slots)
        if self.tower is not None and tower_profile is not None:
            owner = batch.slots // states.shape[1]
            user = user + self.tower(tower_profile.to(dtype)).index_select(0, owner)
        return user.float(), views

    def _states(self, items: Tensor, history: Tensor, lengths: Tensor, x_u: Tensor | None) -> Tensor:
        """u_s at every slot, [B, L + 1, D]."""
        batch, width = history.shape
        vectors = items.index_select(0, history.reshape(-1)).view(batch, width, -1)
        # Positions count back from the most recent item, as with SASRec's left padding; the prompt has none.
        age = (lengths[:, None] - 1 - torch.arange(width, device=lengths.device)).clamp(min=0)
        tokens = vectors * math.sqrt(self.model.dim) + F.embedding(age, self.position)
        tokens = self.dropout(tokens)
        if self.prompt is None or x_u is None:
            return F.pad(self.backbone(tokens), (0, 0, 1, 0))
        prompt = self.prompt(x_u).view(batch, self.tokens, -1)
        return self.backbone(torch.cat([prompt, tokens], dim=1))[:, self.tokens - 1 :]  # type: ignore[no-any-return]
