"""DenseTower: everything dense in one module, so that it can live in one DeepSpeed engine.

Shapes: B users in groups of B_g padded to L_g, U distinct items, D width, n prompt tokens, m attributes of width d
each, P targets. Slot t of a user is the state after t items (t = 0: before the first).
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
from ppr_dist.model.dropout import Dropout


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

    ``user vector at slot t = u_a + u_s(t)`` (PPR eq. 6 and 7): u_a = tower(x_u) where there is a profile tower, u_s(t)
    the backbone's output after [prompt | first t items]; without a prompt u_s(0) = 0.
    """

    def __init__(self, model: Model, prompt: Prompt, *, attributes: int, with_prompt: bool, with_tower: bool) -> None:
        super().__init__()
        self.model, self.tokens = model, prompt.tokens if with_prompt else 0
        self.backbone = Backbone(model.dim, model.blocks, model.heads, model.feed_forward, model.dropout)
        self.position = nn.Parameter(torch.randn(model.max_length, model.dim) * 0.02)
        self.dropout = Dropout(model.dropout)
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
        """Return user vectors at ``batch.slots`` [P, D] float32 and, where the batch has a masked view, the views.

        Args:
            items: vectors of batch.item_ids [U, D]; prompt_profile, tower_profile: x_u [B, m·d] or None;
            attribute_mask: γ1, where views are wanted.
        """
        dtype = self.position.dtype
        items = items.to(dtype)
        x_u = prompt_profile.to(dtype) if prompt_profile is not None else None
        stacks = [_Stack(batch.history, batch.lengths, x_u)]
        if batch.masked_history and batch.masked_lengths is not None and x_u is not None:
            stacks.append(_Stack(batch.history, batch.lengths, F.dropout(x_u, attribute_mask or 0.0, self.training)))
            stacks.append(_Stack(batch.masked_history, batch.masked_lengths, x_u))
        states = self._states(items, stacks)

        user = states[0].index_select(0, batch.slots)
        if self.tower is not None and tower_profile is not None:
            user = user + self.tower(tower_profile.to(dtype)).index_select(0, batch.owner)
        if len(stacks) == 1:
            return user.float(), None
        final = [s.index_select(0, batch.first_slot + stack.lengths) for s, stack in zip(states, stacks, strict=True)]
        return user.float(), Views(*(f.float() for f in final))

    def _states(self, items: Tensor, stacks: list[_Stack]) -> list[Tensor]:
        """u_s at every slot of each stack, [slots, D]; all stacks go through the backbone together, group by group."""
        parts: list[list[Tensor]] = [[] for _ in stacks]
        first = 0
        for groups in zip(*(stack.history for stack in stacks), strict=True):
            users = len(groups[0])
            rows = slice(first, first + users)
            x_u = [stack.x_u[rows] for stack in stacks if stack.x_u is not None]
            states = self._group_states(
                items,
                torch.cat(groups),
                torch.cat([stack.lengths[rows] for stack in stacks]),
                torch.cat(x_u) if x_u else None,
            )
            for part, state in zip(parts, states.unflatten(0, (len(stacks), users)), strict=True):
                part.append(state.flatten(0, 1))
            first += users
        return [torch.cat(part) for part in parts]

    def _group_states(self, items: Tensor, history: Tensor, lengths: Tensor, x_u: Tensor | None) -> Tensor:
        """u_s at every slot of histories int64 [B_g, L_g], [B_g, L_g + 1, D]."""
        width = history.shape[1]
        # Positions count back from the most recent item, as with SASRec's left padding; the prompt has none.
        age = (lengths[:, None] - 1 - torch.arange(width, device=lengths.device)).clamp(min=0)
        tokens = F.embedding(history, items) * math.sqrt(self.model.dim) + F.embedding(age, self.position)
        tokens = self.dropout(tokens)
        if self.prompt is None or x_u is None:
            return F.pad(self.backbone(tokens), (0, 0, 1, 0))
        prompt = self.prompt(x_u).view(len(history), self.tokens, self.model.dim)
        states: Tensor = self.backbone(torch.cat([prompt, tokens], dim=1))[:, self.tokens - 1 :]
        return states


@dataclasses.dataclass(frozen=True)
class _Stack:
    """One view of a batch's users: the contrastive views ride in the same forward call as the plain one."""

    history: tuple[Tensor, ...]
    lengths: Tensor
    x_u: Tensor | None
