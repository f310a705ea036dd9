"""Stored vectors projected: against numpy, and what is unknown."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ppr_dist.data.manifest import ItemData
from ppr_dist.errors import UserError
from ppr_dist.model.item_encoders.combined import CombinedItems
from ppr_dist.model.item_encoders.features import Features, Settings
from ppr_dist.model.item_encoders.id import Id

DIM, U = 6, 5
KNOWN = {
    "text": ItemData(kind="features", columns=4, known=U, sha256=""),
    "image": ItemData(kind="features", columns=3, known=U, sha256=""),
}
ROWS = {name: torch.randn(U, data.columns, generator=torch.Generator().manual_seed(1)) for name, data in KNOWN.items()}


def made(**settings: int | bool) -> Features:
    torch.manual_seed(0)
    return Features(Settings(**settings), DIM, KNOWN)  # type: ignore[arg-type]


@pytest.mark.parametrize("hidden", [0, 7])
def test_it_is_the_sum_of_the_modalities_each_normalised_and_projected(hidden: int) -> None:
    encoder, want = made(hidden=hidden), np.zeros((U, DIM))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    for projection, x in zip(encoder.projections, ROWS.values(), strict=True):
        weights = [p.detach().double().numpy() for p in projection.parameters()]
        y = x.double().numpy()
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5) * weights[0] + weights[1]
        if hidden:
            y = y @ weights[2].T + weights[3]
            erf = torch.erf(torch.from_numpy(y / np.sqrt(2))).numpy()
            y = y / 2 * (1 + erf)
        want += y @ weights[-2].T + weights[-1]
    np.testing.assert_allclose(encoder(ROWS).detach().numpy(), want, rtol=1e-4, atol=1e-5)


def test_a_missing_modality_adds_nothing_and_an_item_without_any_is_zero() -> None:
    encoder, rows = made(), {name: x.clone() for name, x in ROWS.items()}
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.5)
    rows["image"][0] = 0
    rows["text"][1] = 0
    for x in rows.values():
        x[2] = 0
    out = encoder(rows)
    torch.testing.assert_close(out[0], encoder.projections[0](rows["text"])[0])
    torch.testing.assert_close(out[1], encoder.projections[1](rows["image"])[1])
    assert not out[2].any()
    assert out[3].any()


def test_vectors_begin_as_small_as_rows_of_the_table() -> None:
    known = {"text": ItemData(kind="features", columns=300, known=1, sha256="")}
    torch.manual_seed(0)
    assert 0.015 < Features(Settings(), 64, known)({"text": torch.randn(50, 300)}).std() < 0.025


def test_encoders_are_added_up_or_joined_and_projected() -> None:
    rows = {**ROWS, "id": torch.randn(U, DIM)}
    added = CombinedItems({"id": Id(None, DIM, {}), "features": made()}, DIM, "sum")
    torch.testing.assert_close(added(rows), rows["id"] + made()(ROWS))
    joined = CombinedItems({"id": Id(None, DIM, {}), "features": made()}, DIM, "concat")
    assert joined.join is not None
    torch.testing.assert_close(joined(rows), torch.cat([rows["id"], made()(ROWS)], 1) @ joined.join.weight.T)


def test_features_that_the_data_does_not_have_are_refused() -> None:
    assert Features.reads(Settings(), KNOWN) == ("text", "image")
    assert Features.reads(Settings(names=["image"]), KNOWN) == ("image",)
    with pytest.raises(UserError, match=r"features.names 'sound': the data has text, image; prepare it with --item-fe"):
        Features.reads(Settings(names=["sound"]), KNOWN)
    with pytest.raises(UserError, match=r"model.item_encoders features: the data has none"):
        Features.reads(Settings(), {})
    codes = {"codes": dataclasses.replace(KNOWN["text"], kind="codes")}
    with pytest.raises(UserError, match="the data has none"):
        Features.reads(Settings(), codes)
