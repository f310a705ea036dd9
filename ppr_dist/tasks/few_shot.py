"""Few-shot (PPR §4.3): each click of a cold user but the first."""

from __future__ import annotations

import numpy as np

from ppr_dist.data.stream.instances import Instances
from ppr_dist.data.stream.padding import ragged_arange
from ppr_dist.data.stream.users import Users
from ppr_dist.tasks.ranking import RankingTask


class FewShot(RankingTask):
    def instances(self, users: Users) -> Instances:
        user_rows, nth = ragged_arange(np.maximum(users.lengths - 1, 0))
        return Instances(users, user_rows, nth + 1)
