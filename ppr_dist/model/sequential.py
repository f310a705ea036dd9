"""SequentialModel: everything dense in one module, so that it can live in one DeepSpeed engine.

Shapes: B users, T clicks of their histories, U distinct items, D width, n prompt rows, m attributes of width d each,
F numbers of a user's vector, P targets, V views (the batch's own history is the first). Of each view a user has a
sequence of n + its clicks rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppr_dist.batch import Batch, History, View
from ppr_dist.config import Model
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.model.dropout import drop
from ppr_dist.model.encoded import Encoded
from ppr_dist.model.item_encoders.combined import CombinedItems
from ppr_dist.model.item_encoders.id import Id
from ppr_dist.model.packed_sequences import PackedSequences, mixed
from ppr_dist.model.profile import ConstantPrompt, ProfileMLP

_PROFILE = -1  # a draw beside those of the backbone's dropout layers


class SequentialModel(nn.Module):
    """Backbone and heads, a mask where one is needed, and what a tuning method attaches: prompt generator, profile
    encoder, adapters.

    ``user vector after t clicks = u_a + u_s(t)`` (PPR eq. 4): u_a = profile_encoder(x_u) where there is one, u_s(t) the
    backbone's state after [prompt | first t clicks]; without a prompt u_s(0) = 0.
    """

    def __init__(self, config: Model, settings: Any, item_encoder: CombinedItems | None = None) -> None:
        """The model as pre-training makes it; ``settings``: the backbone's section; items are ids by default."""
        super().__init__()
        self.dim, self.normalize = config.dim, config.normalize
        self.item_encoder = item_encoder or CombinedItems({"id": Id(None, config.dim, {})}, config.dim, "sum")
        self.backbone = BACKBONES[config.backbone](settings, config.dim, config.max_length, config.dropout)
        self.prompt_rows, self.prompted_layers = 0, 1
        self.prompt: ProfileMLP | ConstantPrompt | None = None
        self.profile_encoder: ProfileMLP | None = None
        self.heads = nn.ModuleDict()
        self.mask: nn.Parameter | None = None
        self.user_model: Any = None
        self.profile_uses: tuple[str, ...] = ()
        """What profiles are read for."""

    def attach_mask(self, wanted: bool) -> None:
        """Have a vector that stands for a masked item, or none; one there already stays as it is."""
        if not wanted:
            self.mask = None
        elif self.mask is None:
            self.mask = nn.Parameter(torch.randn(self.dim) * 0.02)

    def attach_heads(self, heads: dict[str, nn.Module]) -> None:
        """Have these heads of objectives and no others; those there already stay as they are."""
        self.heads = nn.ModuleDict({name: dict(self.heads.items()).get(name, head) for name, head in heads.items()})

    def attach_user_model(self, module: nn.Module) -> None:
        """Make user vectors by ``module(items, batch, profiles)`` → [P, D] in place of backbone and profile encoder."""
        self.user_model = module

    def attach_prompt(self, rows: int, features: int, hidden: int, *, layers: int = 1) -> ProfileMLP:
        """Put ``rows`` prompt rows, generated from profiles [B, features], before the clicks.

        ``layers``: how many of the backbone's, from the first on, find such rows of their own.
        """
        self.prompt_rows, self.prompted_layers = rows, layers
        self.prompt = ProfileMLP(features, hidden, layers * rows * self.dim)
        return self.prompt

    def attach_constant_prompt(self, rows: int, *, layers: int = 1) -> None:
        """The same, but rows that are parameters themselves, for all users."""
        self.prompt_rows, self.prompted_layers = rows, layers
        self.prompt = ConstantPrompt(layers * rows * self.dim)

    def attach_profile_encoder(self, features: int, hidden: int) -> None:
        """Add an encoding of profiles [B, features] to user vectors; 0 until it is trained."""
        self.profile_encoder = ProfileMLP(features, hidden, self.dim)
        nn.init.zeros_(self.profile_encoder.second.weight)
        nn.init.zeros_(self.profile_encoder.second.bias)

    def forward(self, items: Tensor, batch: Batch, profiles: dict[str, Tensor], *, heads: bool = True) -> Encoded:
        """Encode a batch's users.

        Args:
            items: vectors of batch.item_ids [U, D]; profiles: the attributes' embeddings [B, m·d] for each use of
            them ("prompt", "profile_encoder"), behind which the batch's user vectors are put;
            heads: whether to compute the objectives', of which some are thousands of labels wide.
        """
        profiles = self._with_user_vectors(profiles, batch)
        views = [View(), *(view for wanted in batch.views.values() for view in wanted)]
        modules = dict(self.heads.items()) if heads else {}
        if self.user_model is not None and len(views) == 1 and not modules:
            user = self.user_model(self.scored(items), batch, profiles)
            return Encoded(user=self.scored(user.float()), final=None, heads={})
        sequences, states = self._states(items, batch, views, profiles.get("prompt"))
        if self.user_model is not None:
            user = self.user_model(self.scored(items), batch, profiles)
        else:
            user = sequences.after(states, batch.user_rows, batch.context_lengths)
        u_a = None
        if self.profile_encoder is not None and "profile_encoder" in profiles:
            u_a = self.profile_encoder(profiles["profile_encoder"])
            user = user + u_a.index_select(0, batch.user_rows)
        final = None
        if len(views) > 1 or modules:
            final = sequences.after(
                states, torch.arange(len(sequences.lengths), device=states.device), sequences.lengths
            )
            final = final.unflatten(0, (len(views), -1))
        of_heads = {}
        for name, head in modules.items():
            assert final is not None
            of_heads[name] = head(final[0] if u_a is None else final[0] + u_a).float()
        return Encoded(
            user=self.scored(user.float()),
            final=final.float() if final is not None and len(views) > 1 else None,
            heads=of_heads,
        )

    def _with_user_vectors(self, profiles: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """x_u [B, m·d + F] by use."""
        if batch.user_vectors is None:
            return profiles
        vectors = batch.user_vectors.float()
        nothing = vectors[:, :0]
        return {use: torch.cat([profiles.get(use, nothing), vectors], 1) for use in self.profile_uses}

    def scored(self, vectors: Tensor) -> Tensor:
        """User or item vectors [n, D] as their dot products are taken: of length 1 where the score is the cosine."""
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def _states(
        self, items: Tensor, batch: Batch, views: list[View], x_u: Tensor | None
    ) -> tuple[PackedSequences, Tensor]:
        """u_s after each row of all views, which go through the backbone together."""
        histories = [view.history or batch.history for view in views]
        sequences = PackedSequences(
            torch.cat([history.lengths for history in histories]),
            tuple(bucket for history in histories for bucket in history.buckets),
            prompt_rows=self.prompt_rows,
            times=_joined([history.times for history in histories]),
            asked_at=_joined([history.asked_at for history in histories]),
            keys=_joined([None if batch.keys is None else mixed(batch.keys + n) for n in range(len(views))]),
        )
        x = self.backbone.embed(self._vectors(items, histories), sequences)
        if self.prompt is not None:
            x_u = x.new_zeros(len(batch.users), 0) if x_u is None else x_u
            x_us = [self._dropped(x_u, batch, view) for view in views]
            prompts = self.prompt(torch.cat(x_us)).unflatten(1, (self.prompted_layers, -1, self.dim))
            first, *sequences.prompts_inside = prompts.transpose(0, 1).flatten(1, 2)
            x = sequences.insert_prompts(x, first)
        return sequences, self.backbone(x, sequences)

    def _vectors(self, items: Tensor, histories: list[History]) -> Tensor:
        """What stands for the clicks of all histories [T, D]: their items' vectors, or the mask."""
        x = F.embedding(torch.cat([history.items for history in histories]), items)
        if self.mask is None:
            return x
        # Also where nothing is masked: the mask then has a gradient still, 0 on any number of ranks.
        parts = [torch.zeros_like(h.items, dtype=torch.bool) if h.masked is None else h.masked for h in histories]
        return torch.where(torch.cat(parts)[:, None], self.mask, x)

    def _dropped(self, x_u: Tensor, batch: Batch, view: View) -> Tensor:
        """Profiles [B, m·d] as a view has them."""
        if not self.training or not view.profile_dropout or not x_u.numel():
            return x_u
        assert batch.keys is not None
        return drop(x_u, batch.keys, _PROFILE, view.profile_dropout)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """All views' parts in one, if they have them."""
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None
