"""RecTools' HSTU layers, and its pre-norm layers under a causal mask (SASRec as ppr_dist has it)."""

from __future__ import annotations

import torch
from rectools.models.nn.transformers.hstu import STULayers
from rectools.models.nn.transformers.net_blocks import LearnableInversePositionalEncoding, PreLNTransformerLayers
from torch import Tensor, nn

from benchmarks.rivals.functions import DIM, EPS, HEADS, LAYERS, LENGTH, hand_over, shake

CAUSAL = ~torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()


def sasrec(histories: Tensor, items: Tensor) -> tuple[dict[str, nn.Module], Tensor]:
    places, norm = LearnableInversePositionalEncoding(True, LENGTH, DIM, use_scale_factor=True), nn.LayerNorm(DIM)
    layers = PreLNTransformerLayers(n_blocks=LAYERS, n_factors=DIM, n_heads=HEADS, dropout_rate=0.5)
    shake(places, layers, norm)
    states = layers(places(items[histories]), torch.ones(*histories.shape, 1, dtype=torch.bool), CAUSAL, None)
    return {"places.": places, "layers.": layers, "norm.": norm}, norm(states[:, -1])


def hstu(histories: Tensor, items: Tensor) -> tuple[dict[str, nn.Module], Tensor]:
    places = LearnableInversePositionalEncoding(True, LENGTH, DIM, use_scale_factor=True)
    layers = STULayers(
        n_blocks=LAYERS,
        n_factors=DIM,
        n_heads=HEADS,
        dropout_rate=0.5,
        linear_hidden_dim=DIM // HEADS,
        attention_dim=DIM // HEADS,
        session_max_len=LENGTH,
        relative_time_attention=False,
        relative_pos_attention=True,
        attn_dropout_rate=0.5,
        epsilon=EPS,
    )
    for layer in layers.stu_blocks:
        nn.init.xavier_normal_(layer.uvqk_proj)
    shake(places, layers)
    real = torch.ones(*histories.shape, 1, dtype=torch.bool)
    states = layers(places(items[histories]), real, CAUSAL, None, {"x": histories + 1})
    bias = nn.ParameterList([layer.rel_attn.forward_pos_attention()[0].detach() for layer in layers.stu_blocks])
    return {"places.": places, "layers.": layers, "bias.": bias}, states[:, -1]


if __name__ == "__main__":
    hand_over({"SASRec": sasrec, "HSTU": hstu})
