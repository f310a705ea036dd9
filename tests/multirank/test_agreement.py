"""What one rank says after a step, all ranks know after the next."""

from __future__ import annotations

import pytest

from ppr_dist.parallel.agreement import Agreement, Signs
from ppr_dist.parallel.distributed import DistributedContext
from tests.ranks import run_ranks


def heard(context: DistributedContext, speaker: int) -> list[bool]:
    """The last of the ranks to speak says once, after the third step, that its time is up."""
    agreement = Agreement()
    steps = [agreement.exchange(Signs(time_is_up=step == 3 and context.rank == speaker)) for step in range(1, 7)]
    now = [agreement.at_once(Signs(time_is_up=says and context.rank == speaker)) for says in (False, True)]
    return [said.time_is_up for said in steps + now]


@pytest.mark.parametrize("world_size", [1, 3])
def test_all_ranks_hear_of_it_at_the_same_step(world_size: int) -> None:
    after = [False, False, False, True, False, False, False, True]
    assert run_ranks(heard, world_size, world_size - 1) == [after] * world_size
