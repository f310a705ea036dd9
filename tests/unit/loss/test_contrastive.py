"""InfoNCE against its formula, with padding rows between the users of different ranks."""

from __future__ import annotations

import math

import torch

from ppr_dist.loss.contrastive import info_nce
from ppr_dist.parallel.collectives import pad_rows

B, WIDTH, TAU, CHUNK = 4, 5, 0.2, 20  # chunks of two or three anchors


def vectors(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(anchor: torch.Tensor, keys: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> float:
    total = 0.0
    for i, a in enumerate(anchor):
        similar = [
            math.exp(float(a @ k) / math.sqrt(float(a @ a)) / math.sqrt(float(k @ k)) / TAU) if valid[j] else 0.0
            for j, k in enumerate(keys)
        ]
        total -= math.log(similar[int(labels[i])] / sum(similar))
    return total


def test_is_the_formula_and_sees_only_valid_keys() -> None:
    anchor, keys = vectors(B, 0), vectors(9, 1)
    labels, valid = torch.tensor([5, 6, 7, 0]), torch.ones(9, dtype=torch.bool)
    found = float(info_nce(anchor, keys, labels=labels, valid=valid, temperature=TAU, logit_chunk=CHUNK))
    assert abs(found - by_hand(anchor, keys, labels, valid)) < 1e-10
    valid[[3, 8]] = False
    fewer = float(info_nce(anchor, keys, labels=labels, valid=valid, temperature=TAU, logit_chunk=CHUNK))
    assert abs(fewer - by_hand(anchor, keys, labels, valid)) < 1e-10
    assert fewer < found


def test_padding_rows_change_neither_value_nor_gradient() -> None:
    results = []
    for size in (B, B + 3):
        anchor, view = vectors(B, 0).requires_grad_(), vectors(B, 1).requires_grad_()
        keys = pad_rows(view, size)
        assert keys.shape == (size, WIDTH)
        loss = info_nce(
            anchor, keys, labels=torch.arange(B), valid=torch.arange(size) < B, temperature=TAU, logit_chunk=CHUNK
        )
        results.append([loss.detach(), *torch.autograd.grad(loss, [anchor, view])])
    for short, padded in zip(*results, strict=True):
        assert torch.isfinite(padded).all()
        torch.testing.assert_close(padded, short, rtol=1e-12, atol=1e-14)


def test_gradcheck() -> None:
    valid = torch.tensor([True, True, False, True, True, True])
    tensors = [vectors(B, 0).requires_grad_(), vectors(6, 1).requires_grad_()]
    labels = torch.tensor([0, 1, 3, 5])
    assert torch.autograd.gradcheck(
        lambda a, k: info_nce(a, k, labels=labels, valid=valid, temperature=TAU, logit_chunk=CHUNK), tensors
    )


def test_a_rank_without_users_stays_in_the_graph() -> None:
    keys = vectors(3, 1).requires_grad_()
    valid, labels = torch.tensor([True, True, False]), torch.zeros(0, dtype=torch.int64)
    loss = info_nce(vectors(0, 0), keys, labels=labels, valid=valid, temperature=TAU, logit_chunk=CHUNK)
    loss.backward()
    assert loss == 0
    assert keys.grad is not None
    assert keys.grad.abs().max() == 0
