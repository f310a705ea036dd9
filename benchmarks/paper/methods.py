"""What is compared: a method is one row of data; and the ranges that every method is searched over.

To add one: a line in :data:`METHODS`, and its name in the tables (benchmarks/paper/tables.py) that show it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Options = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a model is made and asked."""

    tune: str | None
    """``tune --method``; None: the pre-trained run as it is, or a baseline."""
    pretrained: str | None = None
    """What it starts from, of :data:`PRETRAINED`; None: what its table starts from."""
    options: Options = dataclasses.field(default_factory=dict)
    """Options of ``tune`` (sections and keys), which no trial changes."""
    searched: tuple[str, ...] = ("new", "pretrained", "dropout")
    """Names of :data:`RANGES` that it has; every method has as many trials."""
    evaluate: Options = dataclasses.field(default_factory=dict)
    """Options of ``evaluate``."""
    answers_first: bool = True
    """Whether it ranks items before the first click (zero-shot)."""


WARM: Options = {"split": ["tune-train", "pretrain"], "train": {"first_clicks": 9}}
PROMPTED = ("new", "dropout", "weight", "temperature")
METHODS: dict[str, Method] = {
    "popularity": Method(tune=None, evaluate={"baseline": "popularity"}),
    "pre-train": Method(tune=None, answers_first=False),
    "fine-tune": Method(tune="fine-tune"),
    "ppr-light": Method(tune="ppr-light", searched=PROMPTED),
    "ppr-full": Method(tune="ppr-full", searched=("pretrained", *PROMPTED)),
    # The rivals of Table III, with the same profiles: docs/training.md.
    "first-clicks": Method(tune=None, evaluate={"baseline": "first-clicks"}),
    "BERT4Rec": Method(tune="head", pretrained="bert4rec-both", searched=("new", "dropout")),
    "SASRec": Method(tune="head", pretrained="sasrec-both", searched=("new", "dropout")),
    "CL4SRec": Method(tune="head", pretrained="cl4srec-both", searched=("new", "dropout")),
    "MeLU": Method(tune="melu", searched=("new", "pretrained", "local")),
    # What pre-training is worth, and whole users contrasted (CLUE).
    "fine-tune, from CL4SRec": Method(tune="fine-tune", pretrained="cl4srec"),
    "fine-tune, from CLUE": Method(tune="fine-tune", pretrained="clue"),
    "fine-tune, from nothing": Method(tune="fine-tune", pretrained="untrained"),
    # Without the contrastive loss (Figure 3).
    "ppr-light, no contrast": Method(
        tune="ppr-light", searched=("new", "dropout"), options={"contrastive": {"weight": 0.0}}
    ),
    "ppr-full, no contrast": Method(tune="ppr-full", options={"contrastive": {"weight": 0.0}}),
    # Parameter-efficient tuning (benchmarks/transfer).
    "adapter": Method(tune="adapter", searched=("new", "dropout")),
    "pfeiffer": Method(tune="pfeiffer", searched=("new", "dropout")),
    "patch, serial": Method(tune="patch", searched=("new", "dropout")),
    "patch, parallel": Method(tune="patch", searched=("new", "dropout"), options={"patch": {"insertion": "parallel"}}),
    "lora": Method(tune="lora", searched=("new", "dropout")),
    "norms and biases": Method(tune="norms-and-biases", searched=("new", "dropout")),
    "last layer": Method(tune="last-layer", searched=("new", "dropout")),
    # Controls: what of the difference is freezing, and what the prompt.
    "profile encoder only": Method(tune="head", searched=("new", "dropout")),
    "constant prompt": Method(tune="constant-prompt", searched=PROMPTED),
    "ppr-light, prompt of each layer": Method(
        tune="ppr-light", searched=PROMPTED, options={"prompt": {"each_layer": True}}
    ),
    "ppr-light, begins gently": Method(
        tune="ppr-light", searched=PROMPTED, options={"prompt": {"begin": "item-means", "out_std": 0.0}}
    ),
    "ppr-full, items frozen, begins gently": Method(
        tune="ppr-full",
        searched=("pretrained", *PROMPTED),
        options={"tables": {"train_items": False}, "prompt": {"begin": "item-means", "out_std": 0.0}},
    ),
    # Every warm user is a cold one once more, with a profile and the first 9 clicks.
    "fine-tune, warm users too": Method(tune="fine-tune", options=WARM),
    "ppr-light, warm users too": Method(tune="ppr-light", searched=PROMPTED, options=WARM),
    "ppr-full, warm users too": Method(tune="ppr-full", searched=("pretrained", *PROMPTED), options=WARM),
    "fine-tune, items frozen": Method(tune="fine-tune", options={"tables": {"train_items": False}}),
    "ppr-full, items frozen": Method(
        tune="ppr-full", searched=("pretrained", *PROMPTED), options={"tables": {"train_items": False}}
    ),
}

BOTH = {"split": ["pretrain", "tune-train"]}
"""Pre-trained on the users to tune on too: once for each fold."""
PRETRAINED: dict[str, Options] = {
    "sasrec": {},
    "cl4srec": {"train": {"objectives": ["softmax", "cl4srec"]}},
    # Of a model that ranks no items the best at the next one is not the best.
    "clue": {"train": {"objectives": ["clue"], "eval_every_epochs": 0}},
    "untrained": {"train": {"max_steps": 1, "lr": 1e-9, "eval_every_epochs": 0}, "tables": {"lr": 1e-9}},
    "sasrec-both": BOTH,
    "cl4srec-both": {**BOTH, "train": {"objectives": ["softmax", "cl4srec"]}},
    "bert4rec-both": {**BOTH, "model": {"backbone": "bert4rec"}, "train": {"objectives": ["full_softmax"]}},
}
"""Options of ``pretrain``, in addition to the log's."""

RANGES: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "new": (("train.lr", "tables.lr"), (1.0, 0.3, 3.0)),
    "pretrained": (("train.pretrained_lr", "tables.pretrained_lr"), (0.1, 0.03, 0.3, 0.01, 1.0)),
    "dropout": (("model.dropout",), (0.1, 0.3)),
    "weight": (("contrastive.weight",), (0.1, 0.03, 0.3)),
    "temperature": (("contrastive.temperature",), (0.2, 0.1, 0.5)),
    "local": (("melu.local_lr",), (0.1, 5e-6, 0.01, 1.0)),
}
"""By name: the options it sets, and its values, of which the first is the starting point. Learning rates are multiples
of :data:`UNITS`: dense parameters and tables go together."""
UNITS = {"lr": {"train": 1e-3, "tables": 0.05}, "pretrained_lr": {"train": 1e-3, "tables": 0.05}}
"""Adam's and row-wise Adagrad's learning rates in configs/ml-1m/tune.yaml."""


def trial(method: Method, number: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Options of a trial: 0 has the first value of each range; the others walk each range in a seeded order.

    A range is walked to its end before a value comes again. Methods share the walk: trial 3 has one learning rate.
    """
    found: dict[str, dict[str, float]] = {}
    for at, (name, (options, values)) in enumerate(RANGES.items()):
        if name in method.searched:
            draw = np.random.default_rng([seed, at])
            walk = [values[0]]
            while len(walk) <= number:
                order = draw.permutation(values[1:] if len(walk) == 1 else values)
                walk += [float(value) for value in order]
            for option in options:
                section, key = option.split(".")
                found.setdefault(section, {})[key] = walk[number] * UNITS.get(key, {}).get(section, 1.0)
    return found
