"""Words through the small transformer: padding counts for nothing, order does, numbers above a digit are exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ppr_dist.data.manifest import TOKEN_BASE, ItemData
from ppr_dist.errors import UserError
from ppr_dist.model.item_encoders.tokens import Settings, Tokens

WORDS, DIM = 3 * TOKEN_BASE, 8


def made(length: int) -> Tokens:
    known = {"tokens": ItemData(kind="tokens", columns=2 * length, known=1, sha256="", values=WORDS)}
    torch.manual_seed(0)
    encoder = Tokens(Settings(), DIM, known)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.shape != encoder.words.shape:
                parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return encoder


def rows(texts: list[list[int]], length: int) -> dict[str, Tensor]:
    """As they are stored, in half precision."""
    tokens = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    return {"tokens": torch.cat([tokens // TOKEN_BASE, tokens % TOKEN_BASE], 1).half().float()}


def test_what_stands_behind_a_text_counts_for_nothing() -> None:
    long, short = made(9), made(3)
    with torch.no_grad():
        long.load_state_dict(short.state_dict() | {"positions": long.positions})
        long.positions[:3] = short.positions
        long.words[0] = 1e6
    texts = [[4, 5, 6], [7], [TOKEN_BASE + 1, 3]]
    torch.testing.assert_close(long(rows(texts, 9)), short(rows(texts, 3)))


def test_words_their_order_and_every_digit_matter() -> None:
    encoder = made(3)
    texts = [[4, 5, 6], [6, 5, 4], [4, 5, 6 + TOKEN_BASE], [4, 5, WORDS], [4, 5], [4, 5, TOKEN_BASE]]
    out = encoder(rows(texts, 3))
    for one in range(len(texts)):
        for other in range(one):
            assert (out[one] - out[other]).abs().max() > 1e-3


def test_an_item_without_words_is_zero_and_teaches_nothing() -> None:
    encoder = made(3)
    out = encoder(rows([[], [4]], 3))
    assert not out[0].any()
    assert torch.isfinite(out).all()
    out[0].sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any(), name


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="the data has none; prepare it with --items"):
        Tokens.reads(Settings(), {})
    known = {"tokens": ItemData(kind="tokens", columns=4, known=1, sha256="", values=9)}
    with pytest.raises(UserError, match="8 is not divisible"):
        Tokens(Settings(heads=3), 8, known)
