"""Tasks: one file each, found here by name."""

from ppr_dist.tasks.attribute import Attribute
from ppr_dist.tasks.base import Task
from ppr_dist.tasks.cold_item import ColdItem
from ppr_dist.tasks.few_shot import FewShot
from ppr_dist.tasks.joint import Joint
from ppr_dist.tasks.labels import Labels
from ppr_dist.tasks.next_item import NextItem
from ppr_dist.tasks.validation import Validation
from ppr_dist.tasks.zero_shot import ZeroShot

TASKS: dict[str, Task] = {
    "few-shot": FewShot(),
    "zero-shot": ZeroShot(),
    "joint": Joint(),
    "next-item": NextItem(),
    "cold-item": ColdItem(),
    "validation": Validation(),
    "attribute": Attribute(),
    "labels": Labels(),
}
