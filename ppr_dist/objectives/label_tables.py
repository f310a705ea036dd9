"""A label space too large for every rank: a sharded table, and candidates that all ranks share.

Candidates are labels of the batch's users and uniform draws from the space. Each label that users lend counts once; a
draw of any other stands for size / draws labels. So, whichever labels are lent, the sum over the candidates estimates
the sum over the space without bias (Horvitz & Thompson, JASA 1952), and no label's share of all has to be known. With
as many draws as labels it is the sum over the space. Shapes as in :mod:`ppr_dist.objectives.labels`; n labels that a
rank lends and m that it draws, padded to the same on every rank; u distinct labels.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from ppr_dist.arrays import Int64Array
from ppr_dist.data.counter_random import integers
from ppr_dist.data.manifest import LabelSpace
from ppr_dist.data.stream.padding import ragged_arange
from ppr_dist.data.stream.step_users import StepUsers
from ppr_dist.objectives.base import NEGATIVE
from ppr_dist.objectives.candidates import CandidateSettings, most_serving, own_draws, serving

_LEND = 71  # what a draw is for, as a word of its key
_NOTHING = -1  # padding among candidates


def draw(users: StepUsers, space: LabelSpace, settings: CandidateSettings) -> tuple[Int64Array, dict[str, Int64Array]]:
    """Distinct labels to look up, [u], and by name: ``lent`` [n] and ``uniform`` [m], labels or −1; ``rows`` [K] of the
    users' labels, and ``candidates`` [n + m] of those lent and drawn, as rows of the former.
    """
    lent, uniform = _lent(users, space, settings), _uniform(users, space, settings)
    labels = users.labels[space.name].values
    ids = np.unique(np.concatenate([labels, uniform[uniform != _NOTHING]]))
    ids = ids if len(ids) else np.zeros(1, np.int64)
    rows = {"rows": np.searchsorted(ids, labels), "candidates": np.searchsorted(ids, np.concatenate([lent, uniform]))}
    return ids, {"lent": lent, "uniform": uniform, **rows}


def lent_per_user(space: LabelSpace, settings: CandidateSettings) -> int:
    """Labels of the space that a user lends at most."""
    return min(settings.in_batch_per_user, space.most)


def uniform_draws(space: LabelSpace, settings: CandidateSettings) -> int:
    """Uniform draws of a step, of all ranks: no more than would draw each label once."""
    return min(settings.uniform_negatives, space.size)


def _lent(users: StepUsers, space: LabelSpace, settings: CandidateSettings) -> Int64Array:
    """Labels of this rank's users that serve as candidates: of each user neighbours in the order of its labels."""
    labels, per_user = users.labels[space.name], lent_per_user(space, settings)
    who = np.flatnonzero(serving(users, settings.in_batch_users) & (labels.lengths > 0))
    count = labels.lengths[who]
    first = integers(2**62, users.seed, _LEND, _key(space), users.epoch, users.index[who])
    user, each = ragged_arange(np.minimum(count, per_user))
    lent = labels.values[labels.offsets[who][user] + (first[user] + each) % count[user]]
    return _padded(lent, most_serving(users, settings.in_batch_users) * per_user)


def _uniform(users: StepUsers, space: LabelSpace, settings: CandidateSettings) -> Int64Array:
    """This rank's uniform draws: one of each of as many equal parts of the space, the expected count of each label is
    draws / size.
    """
    draws = uniform_draws(space, settings)
    each = own_draws(draws, users)
    within = integers(space.size, users.seed, NEGATIVE, _key(space), users.epoch, users.step, each)
    return _padded((each * space.size + within) // max(draws, 1), -(-draws // users.world_size))


def _key(space: LabelSpace) -> int:
    return zlib.crc32(space.name.encode())


def _padded(labels: Int64Array, size: int) -> Int64Array:
    return np.concatenate([labels, np.full(size - len(labels), _NOTHING)])


def log_expected(ids: Tensor, lent: int, log_share: float) -> Tensor:
    """log Q of the candidates of all ranks int64 [W, n + m], the first ``lent`` columns those that users lend: such
    that 1 / Q of a label's sum to 1 where it is lent; ``log_share``, that of draws / size, of another; +inf of padding.
    """
    ids, in_order = ids.contiguous(), ids[:, :lent].flatten().sort().values
    counted = torch.searchsorted(in_order, ids, right=True) - torch.searchsorted(in_order, ids)  # how often it is lent
    log_q = counted.float().log()
    log_q[:, lent:] = torch.where(counted[:, lent:] > 0, torch.inf, log_share)
    return log_q.masked_fill_(ids == _NOTHING, torch.inf)
