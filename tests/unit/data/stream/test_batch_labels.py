"""Labels of users as a batch has them, in training and in evaluation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ppr_dist.batch import Batch
from ppr_dist.data.stream.instances import Instances, history_batch
from tests.multirank.models import LABELS
from tests.settings import collator, objectives
from tests.shards import labels_of, random_users

ITEMS = 40
USERS = random_users(12, ITEMS, longest=9, labels=LABELS)


def batch_of_training() -> Batch:
    return collator(objectives(ITEMS, bpr={}), ITEMS)(USERS, epoch=0, step=0, global_users=len(USERS))


def batch_of_evaluation() -> Batch:
    rows = np.flatnonzero(USERS.lengths > 1)
    return history_batch(Instances(USERS, np.concatenate([rows, rows]), np.repeat([0, 1], len(rows))), 5)


@pytest.mark.parametrize("make", [batch_of_training, batch_of_evaluation])
def test_each_user_has_their_own(make: object) -> None:
    batch = pickle.loads(pickle.dumps(make()))  # type: ignore[operator]
    assert set(batch.labels) == {space.name for space in LABELS}
    for name, labels in batch.labels.items():
        found = [each.tolist() for each in labels.values.split(labels.lengths.tolist())]
        assert found == [labels_of(USERS, name, index) for index in batch.users.tolist()]
        assert any(found)
        assert not all(found)
