"""Joint (PPR §4.3): every click of a cold user, the first included."""

from __future__ import annotations

from ppr_dist.data.stream.instances import Instances
from ppr_dist.data.stream.padding import ragged_arange
from ppr_dist.data.stream.users import Users
from ppr_dist.tasks.ranking import RankingTask


class Joint(RankingTask):
    def instances(self, users: Users) -> Instances:
        return Instances(users, *ragged_arange(users.lengths))
