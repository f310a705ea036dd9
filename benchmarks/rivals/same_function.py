"""ppr_dist's models under weights of the other implementations: what differs of user vectors and of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.rivals.functions import HEADS, HIDDEN, ITEMS, LAYERS, LENGTH
from ppr_dist.batch import Batch
from ppr_dist.build_model import untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Model
from ppr_dist.data.stream.cloze import ask_by_mask
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.data.stream.users import Users
from ppr_dist.model.backbones import bert4rec, gru4rec, hstu, sasrec

Weights = Mapping[str, Tensor]


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Largest relative differences of user vectors and of the item vectors' gradient under one loss.

    ``unseen``: parameters of which 5 % more make no difference to user vectors, and of which these figures say nothing.
    """
    backbone, settings, translated = MODELS[name]
    with np.load(folder / f"{name}.npz") as kept:
        arrays = {key: torch.from_numpy(kept[key]) for key in kept.files}
    weights = {key.removeprefix("weight "): value for key, value in arrays.items() if key.startswith("weight ")}
    items, dim = arrays["items"].requires_grad_(), arrays["items"].shape[1]
    config = Config(model=Model(backbone=backbone, dim=dim, max_length=LENGTH), parts={backbone: settings})
    model = untuned_model(config, Catalogue(items=ITEMS, attributes={})).eval()
    state = {key: value for key, value in model.state_dict().items() if key.startswith("item_encoder")}
    model.load_state_dict(state | translated(weights))  # strict: nothing is left over, on either side
    lengths = np.full(len(arrays["histories"]), LENGTH)
    if name in ("GRU4Rec", "BERT4Rec"):
        lengths[::2] = LENGTH // 2
    batch = _batch(arrays["histories"].numpy(), lengths)
    batch = batch if model.backbone.causal else ask_by_mask(batch)
    user = model(items[batch.item_ids], batch, {}).user
    F.cross_entropy(user @ items.T / math.sqrt(dim), arrays["targets"]).backward()
    assert items.grad is not None
    found: dict[str, Any] = {
        "user vectors": _difference(user.detach(), arrays["user"]),
        "gradient": _difference(items.grad, arrays["gradient"]),
        "unseen": [],
    }
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            before = parameter.clone()
            parameter.mul_(1.05)
            if _difference(model(items[batch.item_ids], batch, {}).user, arrays["user"]) < 1e-4:
                found["unseen"].append(parameter_name)
            parameter.copy_(before)
    return found


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _batch(histories: np.ndarray, lengths: np.ndarray) -> Batch:
    users = Users(
        index=np.arange(len(histories)),
        items=np.concatenate([row[:length] for row, length in zip(histories, lengths, strict=True)]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        attributes=np.zeros((0, len(histories)), np.int64),
    )
    return history_batch(Instances(users, np.arange(len(users)), lengths), LENGTH)


def _sasrec(w: Weights) -> dict[str, Tensor]:
    # RecTools counts positions from the last click, and all histories are whole.
    out = {"positions": w["places.pos_emb.weight"].flip(0)} | _renamed(w, {"norm": "norm"})
    for n in range(LAYERS):
        theirs = f"layers.transformer_blocks.{n}"
        out |= {f"layers.{n}.qkv.{k}": w[f"{theirs}.multi_head_attn.in_proj_{k}"] for k in ("weight", "bias")}
        names = {
            "multi_head_attn.out_proj": "out",
            "layer_norm_1": "attention_norm",
            "layer_norm_2": "feed_forward_norm",
        }
        names |= {"feed_forward.ff_linear_1": "up", "feed_forward.ff_linear_2": "down"}
        out |= _renamed(w, {f"{theirs}.{a}": f"layers.{n}.{b}" for a, b in names.items()})
    return _of_backbone(out)


def _hstu(w: Weights) -> dict[str, Tensor]:
    out = {"positions": w["places.pos_emb.weight"].flip(0)}
    for n in range(LAYERS):
        theirs = f"layers.stu_blocks.{n}"
        names = {"norm_input": "norm", "norm_attn_output": "attention_norm", "output_mlp": "out"}
        out |= _renamed(w, {f"{theirs}.{a}": f"layers.{n}.{b}" for a, b in names.items()})
        out[f"layers.{n}.uvqk.weight"] = w[f"{theirs}.uvqk_proj"].T
        out[f"layers.{n}.position_bias"] = w[f"bias.{n}"][-1].flip(0)  # of the last row: by clicks back
    return _of_backbone(out)


def _gru4rec(w: Weights) -> dict[str, Tensor]:
    out = {f"layers.0.{k}": w[f"gru_layers.{k}"] for k in ("weight_ih_l0", "weight_hh_l0")}
    out |= {f"layers.0.bias_{k}_l0": torch.zeros(3 * HIDDEN) for k in ("ih", "hh")}  # RecBole's has none
    return _of_backbone(out | _renamed(w, {"dense": "out"}))


def _bert4rec(w: Weights) -> dict[str, Tensor]:
    out = {"positions": w["position_embedding.weight"]}
    out |= _renamed(w, {"LayerNorm": "embedding_norm", "output_ffn": "out", "output_ln": "norm"})
    for n in range(LAYERS):
        theirs = f"trm_encoder.layer.{n}"
        for k in ("weight", "bias"):
            parts = [w[f"{theirs}.multi_head_attention.{part}.{k}"] for part in ("query", "key", "value")]
            out[f"layers.{n}.qkv.{k}"] = torch.cat(parts)
        names = {"multi_head_attention.dense": "out", "multi_head_attention.LayerNorm": "attention_norm"}
        names |= {
            "feed_forward.dense_1": "up",
            "feed_forward.dense_2": "down",
            "feed_forward.LayerNorm": "feed_forward_norm",
        }
        out |= _renamed(w, {f"{theirs}.{a}": f"layers.{n}.{b}" for a, b in names.items()})
    return _of_backbone(out) | {"mask": w["mask.0"]}


def _renamed(w: Weights, names: Mapping[str, str]) -> dict[str, Tensor]:
    return {f"{ours}.{k}": w[f"{theirs}.{k}"] for theirs, ours in names.items() for k in ("weight", "bias")}


def _of_backbone(weights: Weights) -> dict[str, Tensor]:
    return {f"backbone.{key}": value for key, value in weights.items()}


SHAPE: dict[str, Any] = {"layers": LAYERS, "heads": HEADS}
MODELS: dict[str, tuple[str, Any, Callable[[Weights], dict[str, Tensor]]]] = {
    "SASRec": ("sasrec", sasrec.Settings(**SHAPE), _sasrec),
    "HSTU": ("hstu", hstu.Settings(**SHAPE, times=False), _hstu),
    "GRU4Rec": ("gru4rec", gru4rec.Settings(layers=1, hidden=HIDDEN), _gru4rec),
    "BERT4Rec": ("bert4rec", bert4rec.Settings(**SHAPE), _bert4rec),
}
