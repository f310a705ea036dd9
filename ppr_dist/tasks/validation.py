"""Validation of pre-training: a warm user's last click but one."""

from __future__ import annotations

from ppr_dist.data.stream.instances import Instances
from ppr_dist.data.stream.users import Users
from ppr_dist.tasks.ranking import RankingTask, last_but


class Validation(RankingTask):
    split = "pretrain"
    cold = False

    def instances(self, users: Users) -> Instances:
        return last_but(2, users)
