"""Configuration: frozen dataclasses, one per section, a docstring with the unit under each field.

The sections of parts (backbones, objectives, tuning methods, …) stand in the files of the parts;
:mod:`ppr_dist.read_config` reads all of them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import PosixPath
from typing import Any, Literal, TypeVar, cast

from jsonargparse.typing import register_type

from ppr_dist.errors import UserError, require_positive, require_probability

Section = TypeVar("Section")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The sequential model."""

    backbone: str = "sasrec"
    """What makes states of a history (ppr_dist/model/backbones); its settings are the section of its name."""
    item_encoders: list[str] = dataclasses.field(default_factory=lambda: ["id"])
    """What makes vectors of items (ppr_dist/model/item_encoders): id, features, …; the settings of each are the section
    of its name. Without id there is no table of trained rows."""
    combine_items: Literal["sum", "concat"] = "sum"
    """What becomes of the vectors of several item encoders: they are added up, or joined and projected."""
    dim: int = 64
    """Width of item vectors, user vectors and the backbone."""
    max_length: int = 50
    """Most recent interactions kept of a history; older ones are dropped."""
    dropout: float = 0.2
    """Dropout probability on embeddings and on the outputs of the backbone's layers."""
    normalize: bool = False
    """Whether user and item vectors are scored by their cosine (L2-normalised). Cosines are at most 1: choose
    ``loss.temperature`` well below."""
    target_time: bool = False
    """Whether the model sees when the click to be predicted is made, in training and evaluation. Every evaluation says
    so: such figures do not compare with others. Needs data with times."""

    def __post_init__(self) -> None:
        require_positive(self, "model", "dim", "max_length")
        require_probability(self, "model", "dropout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profiles:
    """How profiles are embedded, and the profile encoder (tune only)."""

    attribute_dim: int = 64
    """Width of one attribute's embedding, in the prompt and in the profile encoder."""
    hidden: int = 128
    """Hidden units of the profile encoder."""

    def __post_init__(self) -> None:
        require_positive(self, "profiles", "attribute_dim", "hidden")


class ClusterFile(PosixPath):
    """An absolute path. In a YAML file it is seen from the file's folder, and a copy in a run finds it too."""


# While jsonargparse reads a YAML file it stands in that file's folder.
register_type(ClusterFile, serializer=str, deserializer=lambda path: ClusterFile(os.path.abspath(path)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
    """Embedding tables and their optimizer."""

    optimizer: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "partial_rowwise_adam"] = "rowwise_adagrad"
    """FBGEMM's fused optimizer; partial_rowwise_adam needs a GPU, and on a CPU adam is ``torch.optim.SparseAdam``'s
    update of the rows looked up."""
    lr: float = 0.05
    """Learning rate of the tables."""
    pretrained_lr: float | None = None
    """tune: learning rate of the item table; null = ``tables.lr``, which all others always have."""
    train_items: bool | None = None
    """tune: whether the item table is trainable; null = as the method has it."""
    eps: float = 1e-8
    """The optimizer's epsilon."""
    init_std: float = 0.02
    """Standard deviation of the normal initialisation."""
    precision: Literal["float32", "float16"] = "float32"
    """Weights of the tables of items and of labels; profile tables, optimizer state and looked-up vectors are float32
    either way. float16 halves a table and keeps 11 bits of a weight. First values are rounded to the nearest; an update
    is computed in float32 and then rounded: on a GPU stochastically, right on average (FBGEMM's default); on a CPU to
    the nearest, so that a step of less than 1/4,096 of a weight is lost."""
    exchange: Literal["float32", "bfloat16"] = "float32"
    """What looked-up vectors, softmax's candidates and the gradients of both are rounded to on their way between ranks;
    sums stay float32. bfloat16 halves these bytes and keeps 8 bits of a value; one rank sends nothing, and rounds
    nothing."""
    cluster: ClusterFile | None = None
    """Cluster file (sharding/*.yaml) with topology and constraints; null = built-in defaults for the device. In a YAML
    file the path is relative to that file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """How objectives score users and candidates."""

    temperature: float = 1.0
    """Logits are divided by this."""
    logit_chunk: int = 1_048_576
    """Most logits held at once (4 bytes each)."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """What enters the products of users and candidates; sums are float32. tf32 needs a GPU. Tensor cores do the others
    many times as fast, and at many ranks these products are most of a step."""

    def __post_init__(self) -> None:
        require_positive(self, "loss", "temperature", "logit_chunk")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """How shards are read."""

    shuffle_shards: int = 8
    """Shards whose users are shuffled together; also what a reader holds in memory."""
    workers: int = 0
    """Loader processes per rank; 0 = load in the training process."""
    bucket_tokens: int | None = None
    """Tokens that histories of similar length hold together in attention before shorter ones open the next padded
    bucket: smaller pads attention less, larger keeps a GPU busy. null = 256 on a CPU, 65,536 on a GPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """The training loop and the dense parameters' optimizer."""

    objectives: list[str] = dataclasses.field(default_factory=lambda: ["softmax"])
    """What is minimised (ppr_dist/objectives), added up; the settings of each are the section of its name. A tuning
    method may add one of its own."""
    targets: Literal["all", "first", "later"] = "all"
    """tune: which clicks of a user are predicted: the ``first``, from the profile alone (zero-shot), all ``later`` ones
    (few-shot), or both. Pre-training predicts all but the first."""
    first_clicks: int | None = None
    """Predict only so many first clicks of each user; null = all. With ``tune --split tune-train pretrain`` every warm
    user is a cold one once more."""
    last_clicks: int | None = None
    """Predict only so many last clicks of each user, from all that come before; null = all."""
    global_batch_size: int = 256
    """Users per step, summed over ranks."""
    epochs: int = 10
    """Passes over the split."""
    max_steps: int | None = None
    """Stop after this many steps."""
    max_minutes: float | None = None
    """Stop after this much wall time in the loop: at the first step behind it, or the next."""
    dry_step: bool = True
    """Whether a step of the largest batch to be feared (as many users as a rank ever has, with the longest histories of
    a shard) is computed before training, without an update, so that too little memory shows at once."""
    hang_minutes: float | None = 20.0
    """Minutes without a step, a block of validation or a checkpoint done after which a rank ends, and with it the run,
    with the stacks of all its threads in its log; null = never."""
    lr: float = 1e-3
    """Adam's learning rate of the dense parameters."""
    pretrained_lr: float | None = None
    """tune: that of those which the pre-trained run has, where the method trains them; null = ``train.lr``."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) of the dense parameters."""
    warmup_steps: int = 0
    """Steps of linear warm-up of all learning rates."""
    max_grad_norm: float = 5.0
    """Limit of the gradient norm of the dense parameters; 0 = none. Tables are not clipped."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage of the dense parameters."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the sequential model's products (autocast); bfloat16 needs a GPU. Its parameters stay float32; for
    the item table see ``tables.precision``."""
    seed: int = 0
    """Seed of initialisation, shuffling, negatives, masks and dropout."""
    log_every: int = 20
    """Steps between entries in metrics.jsonl."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; one is always written at the end."""
    keep_checkpoints: int = 2
    """Most recent checkpoints kept, besides the best."""
    keep_every: int | None = None
    """Checkpoints at multiples of this many steps are kept for good; null = none."""
    async_checkpoint: bool = True
    """Copy what a checkpoint holds to the host's memory and write it while training goes on; the last one of a run is
    waited for."""
    save_all: bool = False
    """tune: whether checkpoints hold frozen parameters too. Otherwise, where the item table is frozen, they hold what
    is trainable alone and stand on the pre-trained run, which must stay where it is or be named by ``--init``."""
    on_failed_checkpoint: Literal["stop", "continue"] = "stop"
    """What becomes of a run whose checkpoint cannot be written (a full disk). The one before stays either way."""
    eval_every_epochs: int = 0
    """Epochs between validations, the last step always being followed by one; 0 = never. pretrain: each warm user's
    last click but one; tune: ``train.validation_task`` on the users of tune-validation; ranked among the whole
    catalogue. The checkpoint that is best is kept beside the latest ones."""
    validation_task: Literal["few-shot", "zero-shot", "joint"] = "few-shot"
    """tune: the task by which validation chooses the best checkpoint."""
    best_metric: str | None = None
    """The metric of validation that is to be highest, ties going to the earlier; null = ndcg@10."""
    patience: int | None = None
    """Validations in a row without a better one after which training stops; null = it goes on."""
    refit: bool = False
    """pretrain: whether each warm user's last click but one is trained on too, once options and epochs are chosen. Then
    nothing is left to validate by; the last click stays for testing."""

    def __post_init__(self) -> None:
        require_positive(self, "train", "global_batch_size", "epochs", "lr", "log_every", "keep_checkpoints")
        for option in ("first_clicks", "last_clicks", "patience", "keep_every", "hang_minutes", "pretrained_lr"):
            if getattr(self, option) is not None:
                require_positive(self, "train", option)
        for option in ("best_metric", "patience"):
            if getattr(self, option) is not None and not self.eval_every_epochs:
                raise UserError(f"train.{option} does nothing without validation: set train.eval_every_epochs")
        if self.refit and self.eval_every_epochs:
            raise UserError("train.refit trains on what validation asks: set train.eval_every_epochs 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logging:
    """What a run shows and logs."""

    progress: bool = True
    """Show a progress bar on rank 0."""
    wandb: bool = False
    """Log to Weights & Biases; offline where no key is set."""
    wandb_project: str = "ppr_dist"
    """Weights & Biases project."""
    tensorboard: bool = False
    """Write what metrics.jsonl holds to RUN/tensorboard too (``pip install tensorboard``; the lock has it)."""
    experiment: str | None = None
    """Name that this run shares with others of one experiment: Weights & Biases groups them by it."""
    parts_every: int = 50
    """Steps between two of which the parts are timed, the first being a run's tenth; 0 = never. A GPU is waited for
    inside such a step."""

    def __post_init__(self) -> None:
        if self.parts_every < 0:
            raise UserError(f"logging.parts_every must be 0 or more, got {self.parts_every}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All sections of a training run."""

    model: Model = dataclasses.field(default_factory=Model)
    profiles: Profiles = dataclasses.field(default_factory=Profiles)
    tables: Tables = dataclasses.field(default_factory=Tables)
    loss: Loss = dataclasses.field(default_factory=Loss)
    stream: Stream = dataclasses.field(default_factory=Stream)
    train: Train = dataclasses.field(default_factory=Train)
    logging: Logging = dataclasses.field(default_factory=Logging)
    parts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Sections of parts by name; a section that is not there has its defaults."""

    def part(self, name: str, section: type[Section]) -> Section:
        """Section ``name``, an instance of ``section``."""
        return cast(Section, self.parts[name]) if name in self.parts else section()
