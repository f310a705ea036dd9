"""Three tasks in one backbone by real commands: nothing that an earlier one reads is touched, whatever the ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.scoring import ModelScorer
from ppr_dist.trained import Trained, load_trained
from ppr_dist.tuning.continual import serve_from
from tests.commands import run_command, succeed
from tests.integration.conftest import TINY
from tests.oracle import tensors
from tests.ranks import run_ranks

KEPT = ("--continual.keep", 0.3)


def vectors(trained: Trained, model: SequentialModel) -> np.ndarray:
    """Vectors of the cold test users."""
    scorer, found = ModelScorer(trained.scorer.embeddings, model, trained.scorer.device), []
    _, blocks = users_in_order(trained.data, trained.manifest, "tune-test", rank=0, world_size=1, at_once=64)
    for users in blocks:
        instances = Instances(users, np.arange(len(users)), users.lengths)
        found.append(scorer.user_vectors(history_batch(instances, trained.config.model.max_length)).numpy())
    return np.concatenate(found)


def served(context: DistributedContext, first: Path, later: list[Path]) -> list[bytes]:
    """What the first task predicts by its own run, and from the weights of each later one."""
    trained = load_trained(first, None, context)
    model = trained.scorer.model
    with torch.no_grad():
        found = [vectors(trained, model).tobytes()]
        for run in later:
            serve_from(model, load_trained(run, None, context).scorer.model)
            found.append(vectors(trained, model).tobytes())
    return found


@pytest.mark.exhaustive
def test_the_first_task_is_predicted_to_the_byte_after_two_more_resumed_on_other_ranks_and_at_zero_3(
    catalogue: Path, pretrained: Path, tmp_path: Path
) -> None:
    flags = ("--data", catalogue, "--method", "continual", *TINY)
    one, free, two, other = (tmp_path / name for name in ("one", "free", "two", "other"))
    succeed("tune", *flags, "--init", pretrained, "--run-dir", one, *KEPT, "--split", "pretrain", world_size=2)
    succeed(
        "tune", *flags, "--init", one, "--run-dir", free, "--train.max_steps", 2, "--train.zero_stage", 3, world_size=2
    )
    succeed("tune", *flags, "--init", one, "--run-dir", free, "--resume")
    succeed("tune", *flags, "--init", free, "--run-dir", two, "--train.max_steps", 1, *KEPT, world_size=2)
    succeed("tune", *flags, "--init", free, "--run-dir", two, "--resume", *KEPT, "--train.zero_stage", 3, world_size=2)
    succeed("tune", *flags, "--init", two, "--run-dir", other)
    before, *after = run_ranks(served, 1, one, [free, two, other])[0]
    assert [each == before for each in after] == [True, True, True]

    states = [tensors(run) for run in (one, free, two, other)]
    for name, owner in states[0].items():
        if name.endswith(".owner"):
            weight = name.replace("buffer", "parameter").replace("0.owner", "original")
            for state in states[1:]:
                np.testing.assert_array_equal(state[weight][owner == 1], states[0][weight][owner == 1])
            assert (states[2][name] == 2).sum() > 0
            assert not states[2][weight][states[2][name] == 0].any()
            assert (states[1][weight] != states[0][weight]).any()
    refused = run_command("tune", *flags, "--init", one, "--run-dir", tmp_path / "decay", "--train.weight_decay", 0.1)
    assert refused.codes == [2]
    assert "weight_decay would move weights of earlier tasks" in refused.lines[-1]
