"""Scoring users against items: a handful of candidates, or the whole sharded catalogue in chunks.

Shapes: I queries of this rank, X of all ranks, N items, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ppr_dist.arrays import Int64Array
from ppr_dist.batch import Batch
from ppr_dist.data.stream.cloze import ask_by_mask
from ppr_dist.model.encoded import Encoded
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.parallel.collectives import all_gather, all_gather_ragged, all_sum, exchange_rows
from ppr_dist.parallel.embeddings import ShardedEmbeddings
from ppr_dist.topk import BLOCK, RunningTopK

ITEM_CHUNK = {"cpu": 16_384, "cuda": 262_144}
"""Items of each rank fetched at once."""
SCORE_CHUNK = {"cpu": 2_097_152, "cuda": 67_108_864}
"""Most scores held at once, 4 bytes each: what stays in a CPU's L3 cache (measured); on a GPU, to hide the host."""

QUERY_BLOCK = 4_096
"""Queries of all ranks together that one pass over the catalogue ranks; its memory does not grow with the ranks."""


class Items(Protocol):
    """What is ranked: the vectors of a catalogue of items. All methods are collectives."""

    @property
    def device(self) -> torch.device: ...

    def item_vectors(self, ids: Tensor) -> Tensor:
        """Vectors of item indices int64 [n] → [n, D]."""

    def own_items(self, items: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (first item, vectors [n ≤ ITEM_CHUNK, D]) over this rank's part of a catalogue of ``items``.

        The parts of all ranks cover it once. Every rank must exhaust its own.
        """


class Scorer(Items, Protocol):
    """Scores are dot products of user and item vectors. All methods are collectives."""

    @property
    def needs_clicks(self) -> bool:
        """Whether it has nothing to go by for a user without clicks."""

    def user_vectors(self, batch: Batch) -> Tensor:
        """User vectors of ``batch``'s targets, [P, D]."""


def looked_up_in_turn(scorer: Items, items: int) -> Iterator[tuple[int, Tensor]]:
    """``own_items`` for vectors that may lie anywhere: chunks are dealt to ranks in turn and looked up like any ids."""
    world, rank, at_once = dist.get_world_size(), dist.get_rank(), ITEM_CHUNK[scorer.device.type]
    for turn in range(-(-items // (world * at_once))):
        first = min((turn * world + rank) * at_once, items)
        ids = torch.arange(first, min(first + at_once, items), device=scorer.device)
        yield first, scorer.item_vectors(ids)


@dataclasses.dataclass(frozen=True)
class ModelScorer:
    """The trained model, as it stands: where it is trained on, another one scores it."""

    embeddings: ShardedEmbeddings
    model: SequentialModel
    """Or an engine that holds it."""
    device: torch.device

    _encoded: list[tuple[int, Tensor]] = dataclasses.field(default_factory=list)
    """This rank's part of the catalogue, once it was encoded: (first item, vectors)."""

    @property
    def needs_clicks(self) -> bool:
        module = self._module
        return all(part is None for part in (module.prompt, module.profile_encoder, module.user_model))

    @property
    def _module(self) -> SequentialModel:
        module: SequentialModel = getattr(self.model, "module", self.model)
        return module

    def user_vectors(self, batch: Batch) -> Tensor:
        return self.encode(batch if self._module.backbone.causal else ask_by_mask(batch), heads=False).user

    def encode(self, batch: Batch, *, heads: bool = True) -> Encoded:
        """All the model makes of a batch, without or with the objectives' heads. A collective."""
        batch = batch.to(self.device)
        rows, profiles, _ = self.embeddings.look_up_batch(batch)
        encoded: Encoded = self.model(self._module.item_encoder(rows), batch, profiles, heads=heads)
        return encoded

    def item_vectors(self, ids: Tensor) -> Tensor:
        return self._scored(self.embeddings.look_up_items(ids))

    def _scored(self, rows: Mapping[str, Tensor]) -> Tensor:
        return self._module.scored(self._module.item_encoder(rows))

    def own_items(self, items: int) -> Iterator[tuple[int, Tensor]]:
        if self.embeddings.sizes.item_data:
            # More than a look-up: kept from the first pass on, as large as a table of ids.
            if not self._encoded:
                self._encoded.extend(self._own_items(items))
            yield from self._encoded
        else:
            yield from self._own_items(items)

    def _own_items(self, items: int) -> Iterator[tuple[int, Tensor]]:
        own = self.embeddings.own_rows()
        if own is None:
            yield from looked_up_in_turn(self, items)
            return
        first, count, rows = own
        at_once = ITEM_CHUNK[self.device.type]
        # As many turns on every rank, the last of which may be empty: at ZeRO 3 each of them is a collective.
        for start in range(0, -(-items // dist.get_world_size()), at_once):
            yield first + start, self._scored(rows(min(start, count), min(start + at_once, count)))


@dataclasses.dataclass(frozen=True)
class LabelItems:
    """The labels of a space that is a table, to be ranked as items are."""

    embeddings: ShardedEmbeddings
    space: str
    device: torch.device

    def item_vectors(self, ids: Tensor) -> Tensor:
        return self.embeddings.look_up_labels(self.space, ids)

    def own_items(self, items: int) -> Iterator[tuple[int, Tensor]]:
        return looked_up_in_turn(self, items)


@dataclasses.dataclass(frozen=True)
class Queries:
    """User vectors of all ranks, gathered, with the pairs a ranking leaves out."""

    users: Tensor
    """[X, D]."""
    rows: Int64Array
    """Row in ``users`` of each excluded pair."""
    items: Int64Array
    """Item of each excluded pair, ascending."""
    sizes: tuple[int, ...]
    """Rows of each rank, rank after rank; their sum is X."""

    @property
    def mine(self) -> slice:
        """Rows of this rank."""
        first = sum(self.sizes[: dist.get_rank()])
        return slice(first, first + self.sizes[dist.get_rank()])


def gather_queries(users: Tensor, rows: Int64Array, items: Int64Array) -> Queries:
    """Bring the users and their excluded (row, item) pairs of all ranks together on every rank. A collective."""
    sizes = tuple(all_gather(torch.tensor([len(users)], device=users.device)).tolist())
    pairs = torch.from_numpy(np.stack([rows + sum(sizes[: dist.get_rank()]), items], axis=1)).to(users.device)
    gathered = all_gather_ragged(pairs).cpu().numpy()
    gathered = gathered[np.argsort(gathered[:, 1], kind="stable")]
    return Queries(users=all_gather_ragged(users), rows=gathered[:, 0], items=gathered[:, 1], sizes=sizes)


def passes(queries: int, device: torch.device, *, gathered: bool) -> Iterator[slice]:
    """Cut this rank's ``queries`` into passes, as many on every rank: the last ones may be empty. A collective.

    ``gathered``: all ranks' queries meet on each of them, so that the passes of all ranks together hold QUERY_BLOCK.
    """
    at_once = max(1, QUERY_BLOCK // dist.get_world_size()) if gathered else QUERY_BLOCK
    most = int(all_gather(torch.tensor([queries], device=device)).max())
    for start in range(0, most, at_once):
        yield slice(min(start, queries), min(start + at_once, queries))


def score_catalogue(scorer: Items, queries: Queries, items: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (first item, scores [X, n]) over this rank's part of the catalogue, a tile of n items at a time.

    Excluded pairs score −inf. Each tile overwrites the one before; it lies in memory item by item, the order in which
    BLAS and the search for the best are fastest. A collective: every rank must exhaust it.
    """
    users, device = queries.users, scorer.device
    at_once = max(BLOCK, SCORE_CHUNK[device.type] // max(1, len(users)) // BLOCK * BLOCK)
    buffer = users.new_empty(min(at_once, ITEM_CHUNK[device.type]), len(users))
    for start, vectors in scorer.own_items(items):
        for first, tile in zip(range(start, start + len(vectors), at_once), vectors.split(at_once), strict=False):
            scores = torch.mm(tile, users.T, out=buffer[: len(tile)]).T
            low, high = np.searchsorted(queries.items, [first, first + len(tile)])
            if low < high:
                drop = torch.from_numpy(np.stack([queries.rows[low:high], queries.items[low:high] - first])).to(device)
                scores[drop[0], drop[1]] = -torch.inf
            yield first, scores


def rank_in_catalogue(scorer: Items, queries: Queries, targets: Tensor, items: int) -> Tensor:
    """Rank of each of this rank's targets among all items but the excluded ones, 1 = best, int64 [I]. A collective.

    Args:
        targets: item index of each of this rank's queries, int64 [I]; must be among the excluded pairs, so that it is
        not counted against itself. Ties, up to float32 rounding, count against the model.
    """
    unique, inverse = torch.unique(targets, return_inverse=True)
    vectors = scorer.item_vectors(unique)[inverse]
    own = queries.users[queries.mine]
    # The catalogue's scores come from another kernel: equal vectors may differ by rounding, and still tie.
    slack = 4 * torch.finfo(own.dtype).eps * (own * vectors).abs().sum(-1)
    threshold = all_gather_ragged((own * vectors).sum(-1) - slack)
    better = torch.zeros(len(queries.users), dtype=torch.int64, device=scorer.device)
    for _, scores in score_catalogue(scorer, queries, items):
        # Counted from below: against a score that is not a number everything counts.
        better += scores.shape[1] - (scores < threshold[:, None]).sum(1)
    return all_sum(better)[queries.mine] + 1


def rank_among(scorer: Items, users: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Rank of each target among itself and its own negatives, ties against the model, int64 [I]. A collective.

    Args:
        users: [I, D]; targets: int64 [I]; negatives: int64 [I, C].
    """
    candidates = torch.cat([targets[:, None], negatives], dim=1)
    ids, rows = torch.unique(candidates, return_inverse=True)
    vectors = scorer.item_vectors(ids)
    at_once = max(1, SCORE_CHUNK[scorer.device.type] // (candidates.shape[1] * users.shape[1]))
    ranks = [torch.zeros(0, dtype=torch.int64, device=users.device)]
    for start in range(0, len(users), at_once):
        part = slice(start, start + at_once)
        scores = torch.einsum("id,icd->ic", users[part], vectors[rows[part]])
        ranks.append(scores.shape[1] - (scores[:, 1:] < scores[:, :1]).sum(1))
    return torch.cat(ranks)


def top_k(scorer: Items, queries: Queries, items: int, k: int) -> tuple[Tensor, Tensor]:
    """The k best items of this rank's queries: indices int64 [I, k] and scores [I, k], best first. A collective.

    Where fewer than k items remain, the rest is index −1 with score −inf.
    """
    running = RunningTopK(len(queries.users), k, scorer.device)
    for first, scores in score_catalogue(scorer, queries, items):
        running.add(first, scores)
    # Each rank gets what all found for its own queries; gathered everywhere, this would grow with the ranks.
    shape = len(queries.sizes), queries.sizes[dist.get_rank()], k
    index, value = (
        exchange_rows(found, queries.sizes).view(shape).transpose(0, 1).flatten(1) for found in running.best()
    )
    best, order = value.topk(k)
    return index.gather(1, order).masked_fill(best == -torch.inf, -1), best
