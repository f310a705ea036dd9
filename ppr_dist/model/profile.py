"""What is made of a profile: prompts before the clicks, and a vector added to the user's.

Shapes: B users, m attributes of width d each, D width, n prompt rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProfileMLP(nn.Module):
    """W2·σ(W1·x + b1) + b2 with σ = ReLU (PPR eq. 3): the prompt generator, [B, m·d] → [B, n·D], and the profile
    encoder, [B, m·d] → [B, D].
    """

    def __init__(self, features: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, hidden)
        self.second = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(F.relu(self.first(x)))
        return out


class ConstantPrompt(nn.Module):
    """The same prompt rows for every user: [B, …] → [B, out]; N(0, 0.02²) at first, as an item's."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(out) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.expand(len(x), -1)
