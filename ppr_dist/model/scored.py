"""What vectors are scored by: their dot product, or their cosine."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def scored(vectors: Tensor, *, normalize: bool) -> Tensor:
    """User or item vectors [n, D] as their dot products are taken: of length 1 where the score is the cosine."""
    return F.normalize(vectors, dim=-1) if normalize else vectors
