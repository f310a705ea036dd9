"""Prompt-oriented contrastive loss (PPR §3.5.3, eq. 6): a user's state against the views of all users.

Shapes: B users, N keys, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.loss.products import Precision
from ppr_dist.loss.softmax import sampled_softmax


def info_nce(
    anchor: Tensor,
    keys: Tensor,
    *,
    labels: Tensor,
    valid: Tensor,
    temperature: float,
    logit_chunk: int,
    precision: Precision = "float32",
) -> Tensor:
    """Return the sum over B of −log softmax of cos(anchor, own key) / τ over all valid keys; a scalar.

    A softmax whose candidates are the keys, so it too holds at most ``logit_chunk`` logits at once.

    Args:
        anchor: [B, D]; keys: views of all users of all ranks [N, D]; labels: int64 [B], each anchor's key;
        valid: bool [N], false for padding.
    """
    keys = F.normalize(keys, dim=-1)
    return sampled_softmax(
        F.normalize(anchor, dim=-1),
        keys.index_select(0, labels),
        keys,
        positive_ids=labels,
        candidate_ids=torch.arange(len(keys), device=keys.device),
        log_q=torch.zeros_like(keys[:, 0]).masked_fill(~valid, torch.inf),
        temperature=temperature,
        logit_chunk=logit_chunk,
        precision=precision,
    )
