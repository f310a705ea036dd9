"""A vector is the sum of its codes' vectors."""

from __future__ import annotations

import pytest
import torch

from ppr_dist.data.manifest import ItemData
from ppr_dist.errors import UserError
from ppr_dist.model.item_encoders.codes import Codes

KNOWN = {"codes": ItemData(kind="codes", columns=3, known=4, sha256="", values=5)}


def test_it_is_the_sum_over_levels_each_with_vectors_of_its_own() -> None:
    encoder = Codes(None, 6, KNOWN)
    codes = torch.tensor([[1, 1, 1], [5, 1, 3], [0, 0, 0]])
    of_level = encoder.vectors.view(3, 5, 6)
    want = torch.stack([sum(of_level[level, code - 1] for level, code in enumerate(row)) for row in codes[:2]])
    out = encoder({"codes": codes.float()})
    torch.testing.assert_close(out[:2], want)
    assert not out[2].any()
    out.sum().backward()
    # What is unknown teaches nothing; each used code its own row.
    assert encoder.vectors.grad is not None
    assert encoder.vectors.grad[:, 0].tolist() == [1, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0, 1, 0, 0]


def test_data_without_codes_is_refused() -> None:
    assert Codes.reads(None, KNOWN) == ("codes",)
    with pytest.raises(UserError, match="the data has none; prepare it with --code-levels"):
        Codes.reads(None, {})
