"""NT-Xent (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, §2.1).

Shapes: n anchors of this rank, N keys (both views of all users of all ranks), D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.loss.products import Precision
from ppr_dist.loss.softmax import sampled_softmax


def nt_xent(
    one: Tensor,
    other: Tensor,
    keys: Tensor,
    *,
    users: Tensor,
    key_users: Tensor,
    valid: Tensor,
    cosine: bool,
    temperature: float,
    logit_chunk: int,
    precision: Precision = "float32",
) -> Tensor:
    """Return the sum over the 2·n anchors of −log softmax of (its user's other view) among all views of others.

    Of N users each anchor has 2·(N − 1) negatives: both views of every other user. Similarities are dot products, or
    cosines, over ``temperature``.

    Args:
        one, other: the two views of this rank's users [n, D]; keys: [N, D]; users, key_users: int64 [n], [N], whose
        view it is; valid: bool [N], false for padding.
    """
    if cosine:
        one, other, keys = (F.normalize(x, dim=-1) for x in (one, other, keys))
    # What has the anchor's own user is masked, which leaves out the anchor itself; the other view is the positive.
    return sampled_softmax(
        torch.cat([one, other]),
        torch.cat([other, one]),
        keys,
        positive_ids=users.repeat(2),
        candidate_ids=key_users,
        log_q=torch.zeros_like(keys[:, 0]).masked_fill(~valid, torch.inf),
        temperature=temperature,
        logit_chunk=logit_chunk,
        precision=precision,
    )
