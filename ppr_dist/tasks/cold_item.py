"""Cold items: a warm user's last click where it is on an item on which there was no click to train on."""

from __future__ import annotations

from ppr_dist.data.stream.instances import Instances
from ppr_dist.data.stream.item_shares import ItemShares
from ppr_dist.data.stream.users import Users
from ppr_dist.tasks.base import Evaluation
from ppr_dist.tasks.next_item import NextItem


class ColdItem(NextItem):
    """:class:`NextItem` of targets that pre-training never saw; they are ranked among the whole catalogue all the same.

    ``prepare --hide-items`` makes such targets.
    """

    def asked(self, evaluation: Evaluation, users: Users) -> Instances:
        instances = self.instances(users)
        shares = ItemShares(evaluation.data, "train", evaluation.manifest.items)
        return instances.select(shares[instances.targets] == 0)
