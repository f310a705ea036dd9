"""Beam search over the codes of items: nothing but items is generated. Pure tensor arithmetic.

Shapes: I queries, b beams (at most as many as there are beginnings of that length), L codes of an item, S_l codes at
level l, N items, n_l beginnings of items (nodes of the trie) of l + 1 codes, E pairs of a query and an item left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppr_dist.arrays import Int64Array


class Trie:
    """Which codes may follow which. Its last nodes are the items.

    A table of n_{l−1} · S_l numbers at each level l: for catalogues of up to some millions of items.
    """

    def __init__(self, codes: Int64Array, device: torch.device) -> None:
        """``codes``: of each item, int64 [N, L], from 0; no two items have the same."""
        self.children: list[Tensor] = []
        """Node after each node of the level before and code, −1 where there is none: int64 [n_{l−1}, S_l] of each."""
        self.code: list[Tensor] = []
        """The last code of each node, int64 [n_l] of each level."""
        node = np.zeros(len(codes), np.int64)
        for column in codes.T:
            size = int(column.max()) + 1
            before, parents = node, int(node.max()) + 1
            keys, node = np.unique(before * size + column, return_inverse=True)
            children = np.full(parents * size, -1)
            children[keys] = np.arange(len(keys))
            self.children.append(torch.from_numpy(children.reshape(parents, size)).to(device))
            self.code.append(torch.from_numpy(keys % size).to(device))
        self.before, self.last = torch.from_numpy(before).to(device), torch.from_numpy(codes[:, -1].copy()).to(device)
        """Of each item: its node of the level before the last, and its last code, int64 [N] each."""
        item = np.empty(len(codes), np.int64)
        item[node] = np.arange(len(codes))
        self.item = torch.from_numpy(item).to(device)
        """Of each last node, int64 [N]."""


def beam_search(
    trie: Trie,
    log_p: Callable[[Tensor], Tensor],
    queries: int,
    beams: int,
    left_out: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Find the items whose codes are most probable: int64 [I, b] and their log probabilities [I, b], best first.

    Exact where ``beams`` is at least N. Where fewer items are found, the rest is −1 with −inf.

    Args:
        log_p: log probabilities [I, b, S_l] of the next code after the codes [I, b, l] of each beam; it is called
        L times. left_out: pairs of a query and an item that is no answer to it, int64 [E] each.
    """
    device = trie.item.device
    codes = torch.zeros(queries, 1, 0, dtype=torch.int64, device=device)
    nodes = torch.zeros(queries, 1, dtype=torch.int64, device=device)
    scores = torch.zeros(queries, 1, device=device)
    for level, (children, code) in enumerate(zip(trie.children, trie.code, strict=True)):
        reached = children[nodes]
        candidates = (scores[:, :, None] + log_p(codes)).masked_fill(reached < 0, -torch.inf)
        if level == len(trie.children) - 1:
            # A beam that has come to the codes before the last of an item left out does not go on to that one.
            query, item = left_out
            pair, beam = (nodes[query] == trie.before[item, None]).nonzero(as_tuple=True)
            candidates[query[pair], beam, trie.last[item[pair]]] = -torch.inf
        flat, width = candidates.flatten(1), min(beams, len(code))
        if flat.shape[1] < width:  # few beams, with few ways on
            flat = F.pad(flat, (0, width - flat.shape[1]), value=-torch.inf)
        scores, best = flat.topk(width)
        best = best.clamp(max=reached.shape[1] * reached.shape[2] - 1)
        before = best // children.shape[1]
        nodes = reached.flatten(1).gather(1, best).clamp(min=0)  # of beams without a way on any: they stay at −inf
        codes = torch.cat([codes.gather(1, before[:, :, None].expand(-1, -1, level)), code[nodes][:, :, None]], dim=2)
    return torch.where(scores == -torch.inf, -1, trie.item[nodes]), scores
