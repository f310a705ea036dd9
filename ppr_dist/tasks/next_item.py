"""Next item: a warm user's last click (leave one out)."""

from __future__ import annotations

from ppr_dist.data.stream.instances import Instances
from ppr_dist.data.stream.users import Users
from ppr_dist.tasks.ranking import RankingTask, last_but


class NextItem(RankingTask):
    split = "pretrain"
    cold = False

    def instances(self, users: Users) -> Instances:
        return last_but(1, users)
