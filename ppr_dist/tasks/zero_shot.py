"""Zero-shot (PPR §4.3): a cold user's first click, from the profile alone."""

from __future__ import annotations

import numpy as np

from ppr_dist.data.stream.instances import Instances
from ppr_dist.data.stream.padding import ragged_arange
from ppr_dist.data.stream.users import Users
from ppr_dist.tasks.ranking import RankingTask


class ZeroShot(RankingTask):
    def instances(self, users: Users) -> Instances:
        return Instances(users, *ragged_arange(np.minimum(users.lengths, 1)))
