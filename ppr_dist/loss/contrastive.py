"""Prompt-oriented contrastive loss (PPR §4.4, eq. 11): a user's state against the views of all users.

Shapes: B users, N keys, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(anchor: Tensor, keys: Tensor, *, own: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Return the sum over B of −log softmax of cos(anchor, own key) / τ over all real keys; a scalar.

    Args:
        anchor: [B, D]; keys: views of all users of all ranks [N, D]; own: int64 [B], each anchor's key;
        real: bool [N], false for padding.
    """
    logits = F.normalize(anchor, dim=-1) @ F.normalize(keys, dim=-1).T / temperature
    logits = logits.masked_fill(~real, -torch.inf)
    return F.cross_entropy(logits, own, reduction="sum") if len(anchor) else logits.sum() * 0.0
