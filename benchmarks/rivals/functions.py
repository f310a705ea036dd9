"""What the other implementations hand over to be compared as functions: weights, and what they make of histories.

Weights are random and far from their first values, so that a norm or a bias in the wrong place shows. Needs torch only.
Shapes: B users, L clicks of each, N items, D width.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ITEMS, USERS, LENGTH, DIM, HEADS, LAYERS, HIDDEN = 200, 32, 12, 16, 2, 2, 24
EPS = 1e-5
"""Of layer norms: torch's, which ppr_dist has everywhere."""


def hand_over(functions: dict[str, Callable[[Tensor, Tensor], tuple[dict[str, nn.Module], Tensor]]]) -> None:
    """Write NAME.npz into the folder that the command line names, for each of ``functions``.

    A function is given histories int64 [B, L] in numbers from 0 and item vectors [N, D]; it returns its modules, by a
    name that goes before those of their weights, and user vectors [B, D].
    """
    torch.set_num_threads(1)
    for name, function in functions.items():
        torch.manual_seed(1)
        histories, targets = torch.randint(ITEMS, (USERS, LENGTH)), torch.randint(ITEMS, (USERS,))
        items = torch.randn(ITEMS, DIM).requires_grad_()
        modules, user = function(histories, items)
        loss = F.cross_entropy(user @ items.T / math.sqrt(DIM), targets)
        loss.backward()
        weights = {
            f"{at}{key}": value.detach().numpy()
            for at, module in modules.items()
            for key, value in module.state_dict().items()
        }
        assert items.grad is not None
        found = {"histories": histories, "targets": targets, "items": items, "user": user, "gradient": items.grad}
        arrays: dict[str, Any] = {key: value.detach().numpy() for key, value in found.items()}
        arrays |= {f"weight {key}": value for key, value in weights.items()}
        np.savez(Path(sys.argv[1]) / f"{name}.npz", **arrays)


def shake(*modules: nn.Module) -> None:
    """Move all parameters away from 0 and 1, and leave dropout out."""
    for module in modules:
        module.eval()
        for parameter in module.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
