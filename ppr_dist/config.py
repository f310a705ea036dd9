"""Configuration: frozen dataclasses, one per section, a docstring with the unit under each field.

``parse`` reads ``--config FILE.yaml`` and dotted overrides (``--train.lr 1e-3``) strictly: an unknown key or a
wrong type is an error that names it.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PosixPath
from typing import Any, Literal, TypeVar

from jsonargparse.typing import register_type

from ppr_dist import options
from ppr_dist.errors import UserError

Method = Literal["ppr-light", "ppr-full", "fine-tune"]
Task = Literal["few-shot", "zero-shot", "joint", "next-item", "validation"]
Metric = Literal["auc", "hit@5", "hit@10", "hit@20", "hit@50", "ndcg@5", "ndcg@10", "ndcg@20", "ndcg@50"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The sequence model."""

    dim: int = 64
    """Width of item vectors, user vectors and the transformer."""
    blocks: int = 2
    """Transformer blocks."""
    heads: int = 2
    """Attention heads; divides ``dim``."""
    max_length: int = 50
    """Most recent interactions kept of a history; older ones are dropped."""
    positions: Literal["first", "last"] = "first"
    """Where positions count from. ``first``: the first interaction kept, so that training asks at each prefix of a
    history what evaluation asks (measured: few-shot better, next item no worse). ``last``: back from the last one, as
    with SASRec's left padding; training then agrees with evaluation at a history's last prefix alone."""
    feed_forward: int = 4
    """Hidden width of a block's feed-forward layer, in multiples of ``dim``."""
    dropout: float = 0.2
    """Dropout probability on embeddings, attention and feed-forward outputs."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise UserError(f"model.dim {self.dim} is not divisible by model.heads {self.heads}")
        _positive(self, "model", "dim", "blocks", "heads", "max_length", "feed_forward")
        _probability(self, "model", "dropout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TunedModel:
    """The sequence model of a tuning run: the pre-trained run's. What is given must agree, but ``dropout``."""

    dim: int | None = None
    """See pretrain, as for all of these; none = the pre-trained run's."""
    blocks: int | None = None
    heads: int | None = None
    max_length: int | None = None
    positions: Literal["first", "last"] | None = None
    feed_forward: int | None = None
    dropout: float | None = None
    """Dropout probability while tuning."""

    def of(self, pretrained: Model) -> Model:
        """The model to tune; raise :class:`UserError` where another one is asked for."""
        asked = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        for name, value in asked.items():
            if name != "dropout" and value != (has := getattr(pretrained, name)):
                raise UserError(f"model.{name} is {value}, but the pre-trained run has {has}; leave it out")
        return dataclasses.replace(pretrained, **asked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """Prompt generator and profile tower."""

    tokens: int = 1
    """Prefix tokens the generator makes of a profile."""
    hidden: int = 128
    """Hidden units of the generator and of the profile tower."""
    attribute_dim: int = 64
    """Width of one attribute's embedding in the prompt and in the profile tower."""

    def __post_init__(self) -> None:
        _positive(self, "prompt", "tokens", "hidden", "attribute_dim")


class ClusterFile(PosixPath):
    """An absolute path. In a YAML file it is seen from the file's folder, and a copy in a run finds it too."""


# While jsonargparse reads a YAML file it stands in that file's folder.
register_type(ClusterFile, serializer=str, deserializer=lambda path: ClusterFile(os.path.abspath(path)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
    """Embedding tables and their optimizer."""

    optimizer: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "partial_rowwise_adam"] = "rowwise_adagrad"
    """FBGEMM's fused optimizer; adam and partial_rowwise_adam need a GPU."""
    lr: float = 0.05
    """Learning rate of the tables."""
    eps: float = 1e-8
    """The optimizer's epsilon."""
    init_std: float = 0.02
    """Standard deviation of the normal initialisation."""
    precision: Literal["float32", "float16"] = "float32"
    """Weights of the item table; profile tables, optimizer state and looked-up vectors are float32 either way.
    float16 halves the table and keeps 11 bits of a weight. First values are rounded to the nearest; an update is
    computed in float32 and then rounded: on a GPU stochastically, right on average (FBGEMM's default); on a CPU to the
    nearest, so that a step of less than 1/4,096 of a weight is lost."""
    exchange: Literal["float32", "bfloat16"] = "float32"
    """What looked-up vectors, softmax's candidates and the gradients of both are rounded to on their way between ranks;
    sums stay float32. bfloat16 halves these bytes and keeps 8 bits of a value; one rank sends nothing, and rounds
    nothing."""
    sharding: ClusterFile | None = None
    """Cluster file (sharding/*.yaml) with topology and constraints; none = built-in defaults for the device. In a YAML
    file the path is relative to that file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """Prediction loss and prompt-oriented contrastive loss."""

    kind: Literal["softmax", "full_softmax", "bpr", "bce"] = "softmax"
    """``softmax``: own positive against shared candidates; ``full_softmax``: against the whole catalogue, each rank
    scoring a part of it (for up to some 10^5 items per rank); ``bpr``: one pair per uniform negative (PPR eq. 2, 5);
    ``bce``: binary cross-entropy with uniform negatives (SASRec eq. 6)."""
    uniform_negatives: int = 512
    """softmax: uniform negatives shared by the whole batch, summed over ranks. bpr and bce: negatives per target."""
    in_batch_per_user: int = 4
    """softmax: targets of each user that serve as candidates for every user of every rank; 0 = none."""
    in_batch_users: int = 4_096
    """softmax: most users of a step whose targets serve; of a larger batch as many are drawn, so that the candidates of
    a step do not grow with the number of ranks."""
    temperature: float = 1.0
    """Logits are divided by this."""
    logit_chunk: int = 1_048_576
    """Most logits held at once (4 bytes each)."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """What enters the products of users and candidates; sums are float32. tf32 needs a GPU. Tensor cores do the others
    many times as fast, and at many ranks these products are most of a step."""
    contrastive_weight: float = 0.1
    """λ of the prompt-oriented contrastive loss (tune with a prompt only)."""
    contrastive_temperature: float = 0.2
    """τ of the contrastive loss."""
    profile_dropout: float = 0.2
    """γ1: share of profile elements dropped in the first view."""
    interaction_dropout: float = 0.2
    """γ2: share of interactions dropped in the second view (never the last)."""

    def __post_init__(self) -> None:
        _positive(self, "loss", "temperature", "contrastive_temperature", "logit_chunk", "in_batch_users")
        _probability(self, "loss", "profile_dropout", "interaction_dropout")
        if self.uniform_negatives < 0 or self.in_batch_per_user < 0:
            raise UserError("loss.uniform_negatives and loss.in_batch_per_user must not be negative")
        if self.kind in ("bpr", "bce") and self.uniform_negatives < 1:
            raise UserError(f"loss.kind {self.kind} needs loss.uniform_negatives of at least 1")
        if self.kind == "softmax" and self.uniform_negatives + self.in_batch_per_user < 1:
            raise UserError("loss.kind softmax needs uniform_negatives or in_batch_per_user above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """How shards are read."""

    shuffle_shards: int = 8
    """Shards whose users are shuffled together; also what a reader holds in memory."""
    workers: int = 0
    """Loader processes per rank; 0 = load in the training process."""
    bucket_tokens: int | None = None
    """Tokens that like-long histories hold together in attention before shorter ones open the next group: smaller pads
    attention less, larger keeps a GPU busy. None: 256 on a CPU, 65,536 on a GPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """The training loop and the dense parameters' optimizer."""

    batch: int = 256
    """Users per step, summed over ranks."""
    epochs: int = 10
    """Passes over the split."""
    max_steps: int | None = None
    """Stop after this many steps."""
    max_minutes: float | None = None
    """Stop after this much wall time in the loop (checked at logging intervals)."""
    lr: float = 1e-3
    """Adam's learning rate of the dense parameters."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) of the dense parameters."""
    warmup_steps: int = 0
    """Steps of linear warm-up of both learning rates."""
    clip: float = 5.0
    """Gradient-norm limit of the dense parameters; 0 = none. Tables are not clipped."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage of the dense parameters."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the dense tower's products (autocast); bfloat16 needs a GPU. Its parameters stay float32; for the
    item table see ``tables.precision``."""
    seed: int = 0
    """Seed of initialisation, shuffling, negatives, masks and dropout."""
    log_every: int = 20
    """Steps between entries in metrics.jsonl."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; one is always written at the end."""
    keep_checkpoints: int = 2
    """Most recent checkpoints kept, besides the best."""
    eval_every_epochs: int = 0
    """Epochs between validations, the last step always being followed by one; 0 = never. pretrain: each warm user's
    last click but one; tune: few-shot on the users of tune-validation; ranked among the whole catalogue. The checkpoint
    that is best is kept beside the latest ones."""
    best_metric: Metric | None = None
    """The metric of validation that is to be highest, ties going to the earlier; none = ndcg@10."""
    patience: int | None = None
    """Validations in a row without a better one after which training stops; none = it goes on."""

    def __post_init__(self) -> None:
        _positive(self, "train", "batch", "epochs", "lr", "log_every", "keep_checkpoints")
        if self.patience is not None:
            _positive(self, "train", "patience")
        for option in ("best_metric", "patience"):
            if getattr(self, option) is not None and not self.eval_every_epochs:
                raise UserError(f"train.{option} does nothing without validation: set train.eval_every_epochs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observe:
    """What a run shows and logs."""

    progress: bool = True
    """Show a progress bar on rank 0."""
    wandb: bool = False
    """Log to Weights & Biases; offline where no key is set."""
    wandb_project: str = "ppr_dist"
    """Weights & Biases project."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All sections of a training run."""

    model: Model = dataclasses.field(default_factory=Model)
    prompt: Prompt = dataclasses.field(default_factory=Prompt)
    tables: Tables = dataclasses.field(default_factory=Tables)
    loss: Loss = dataclasses.field(default_factory=Loss)
    stream: Stream = dataclasses.field(default_factory=Stream)
    train: Train = dataclasses.field(default_factory=Train)
    observe: Observe = dataclasses.field(default_factory=Observe)


def _positive(section: Any, name: str, *fields: str) -> None:
    for field in fields:
        if not getattr(section, field) > 0:
            raise UserError(f"{name}.{field} must be above 0, not {getattr(section, field)}")


def _probability(section: Any, name: str, *fields: str) -> None:
    for field in fields:
        if not 0 <= getattr(section, field) < 1:
            raise UserError(f"{name}.{field} must be in [0, 1), not {getattr(section, field)}")


Arguments = TypeVar("Arguments")


def parse(
    prog: str, argv: list[str] | None, arguments: type[Arguments], *, with_config: bool = True
) -> tuple[Arguments, Config]:
    """Parse a command line into the command's own ``arguments`` dataclass and the :class:`Config`.

    Raises :class:`UserError` naming the key where one is unknown, missing or of the wrong type.
    """
    (own,), sections = options.parse(prog, argv, [arguments], _sections() if with_config else {})
    return own, Config(**sections)


def parse_tuning(prog: str, argv: list[str] | None, arguments: type[Arguments]) -> tuple[Arguments, TunedModel, Config]:
    """As :func:`parse`, for a run whose model is another run's: that section has only what the user wrote."""
    (own,), sections = options.parse(prog, argv, [arguments], _sections() | {"model": TunedModel})
    model = sections.pop("model")
    return own, model, Config(**sections)


def read(path: Path) -> Config:
    """Read a run's ``config.yaml``. Raises :class:`UserError` naming the file and the key."""
    return Config(**options.read_file(path, _sections()))


def _sections() -> dict[str, type]:
    return {field.name: field.default_factory for field in dataclasses.fields(Config)}  # type: ignore[misc]
