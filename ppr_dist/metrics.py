"""Ranking metrics of single relevant items, from ranks alone; exact sums over ranks.

Shapes: I instances.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUTOFFS = (5, 10, 20, 50)


def metric_sums(rank: Tensor, candidates: Tensor) -> Tensor:
    """Sums over instances of [1, AUC, HIT@N …, NDCG@N …] in float64; add them over ranks, then :func:`finish`.

    HIT@N = rank ≤ N; NDCG@N = 1 / log2(rank + 1) if rank ≤ N; AUC = share of the other candidates ranked below.

    Args:
        rank: int64 [I], 1 = best; candidates: int64 [I], how many were ranked, the target included.
    """
    position = rank.double()
    others = (candidates - 1).clamp(min=1).double()
    auc = (candidates.double() - position) / others
    gain = 1.0 / torch.log2(position + 1)
    hits = [(rank <= n).double().sum() for n in CUTOFFS]
    ndcg = [(gain * (rank <= n)).sum() for n in CUTOFFS]
    return torch.stack([torch.ones_like(position).sum(), auc.sum(), *hits, *ndcg])


def finish(sums: Tensor) -> dict[str, float | int]:
    """Turn summed :func:`metric_sums` into named means."""
    count, auc, *rest = sums.tolist()
    names = [*(f"hit@{n}" for n in CUTOFFS), *(f"ndcg@{n}" for n in CUTOFFS)]
    mean = {name: value / max(count, 1) for name, value in zip(names, rest, strict=True)}
    return {"instances": int(count), "auc": auc / max(count, 1), **mean}
