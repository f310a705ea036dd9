"""What an item encoder is: the seam between looked-up rows and item vectors."""

from __future__ import annotations

from torch import Tensor, nn


class ItemEncoder(nn.Module):
    """What is known of an item → its vector. It lives in the engine, and runs once per distinct item of a step."""

    def forward(self, looked_up: Tensor) -> Tensor:
        """Rows of the item table [U, D] → item vectors [U, D]."""
        raise NotImplementedError
