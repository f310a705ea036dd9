"""Which tables a model has, before they are sharded: names, sizes, the optimizer fused into backward."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp, ShardingPlan
from torchrec.modules.embedding_configs import DataType, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from ppr_dist.config import Tables
from ppr_dist.parallel.cluster import ITEM_DATA, LABEL, Cluster
from ppr_dist.parallel.footprint import describe_plan

OPTIMIZERS = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adam": EmbOptimType.ADAM,
    "partial_rowwise_adam": EmbOptimType.PARTIAL_ROWWISE_ADAM,
}
_VECTORS = CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL
_FLOAT16 = QCommsConfig(forward_precision=CommType.FP16)
_BFLOAT16 = QCommsConfig(forward_precision=CommType.BF16, backward_precision=CommType.BF16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSizes:
    """Which tables a model has."""

    items: int
    dim: int
    attributes: dict[str, int]
    """Cardinality by name; each has a table for every use of profiles."""
    columns: tuple[int, ...]
    """Which of the attributes of a batch they are."""
    attribute_dim: int
    uses: tuple[str, ...] = ()
    """What profiles are embedded for; each use has tables of its own."""
    reference_items: tuple[int, ...] = ()
    """Items that every batch looks up beside its own, behind them."""
    ids: bool = True
    """Whether there is a table of trained rows per item; without the item encoder ``id`` there is none."""
    item_data: dict[str, int] = dataclasses.field(default_factory=dict)
    """Columns by name of what is known of each item, as the item encoders read it: one frozen table of all of them."""
    labels: dict[str, int] = dataclasses.field(default_factory=dict)
    """Labels of each label space that has a table of its own, by name."""

    def rows_of(self, table: str) -> int:
        """Rows of a table of what is trained."""
        if table.startswith(LABEL):
            return self.labels[table.removeprefix(LABEL)]
        rows = {profile_table(use, name): n for use in self.uses for name, n in self.attributes.items()}
        return self.items if table == "item" else rows[table]

    def columns_of(self, table: str) -> int:
        if table == ITEM_DATA:
            return item_data_columns(self)
        return self.dim if table == "item" or table.startswith(LABEL) else self.attribute_dim

    def split_item_data(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows of the table of item data [n, its columns] → those of each name."""
        columns = list(self.item_data.values())
        return dict(zip(self.item_data, rows[:, : sum(columns)].split(columns, dim=1), strict=True))


def profile_table(use: str, attribute: str) -> str:
    """Name of an attribute's table; torch modules may not have a dot in their names."""
    return f"{use}:{attribute.replace('.', '%2E')}"


def label_table(space: str) -> str:
    """Name of a label space's table."""
    return f"{LABEL}{space}"


def item_data_columns(sizes: TableSizes) -> int:
    """Columns of the table of item data: a multiple of 4, as FBGEMM wants it."""
    return -(-sum(sizes.item_data.values()) // 4) * 4


class FrozenCollection(EmbeddingCollection):  # type: ignore[misc]
    """Rows that are never trained: a class of its own, so that TorchRec makes no optimizer state for it."""


class _FrozenSharder(EmbeddingCollectionSharder):  # type: ignore[misc]
    @property
    def module_type(self) -> type[FrozenCollection]:
        return FrozenCollection


class SparseModule(nn.Module):
    """The unsharded description: ``items`` and, where they are used, ``labels``, ``profiles`` and ``item_data``."""

    def __init__(self, sizes: TableSizes, precision: Literal["float32", "float16"]) -> None:
        super().__init__()
        # On the meta device: no rank ever holds a whole table.
        meta = torch.device("meta")
        scored = DataType.FP16 if precision == "float16" else DataType.FP32
        item = _table("item", sizes.items, sizes.dim, scored)
        self.items = EmbeddingCollection(tables=[item], device=meta) if sizes.ids else None
        labels = [_table(label_table(space), rows, sizes.dim, scored) for space, rows in sizes.labels.items()]
        self.labels = EmbeddingCollection(tables=labels, device=meta) if labels else None
        tables = [
            _table(profile_table(use, a), n, sizes.attribute_dim)
            for use in sizes.uses
            for a, n in sizes.attributes.items()
        ]
        self.profiles = EmbeddingCollection(tables=tables, device=meta) if tables else None
        columns = item_data_columns(sizes)
        frozen = [_table(ITEM_DATA, sizes.items, columns, DataType.FP16)] if columns else []
        self.item_data = FrozenCollection(tables=frozen, device=meta) if frozen else None

    @property
    def tables(self) -> list[EmbeddingConfig]:
        """Every table: items first."""
        collections = (self.items, self.item_data, self.labels, self.profiles)
        return [t for c in collections if c is not None for t in c.embedding_configs()]


def make_sharders(config: Tables) -> list[EmbeddingCollectionSharder]:
    """TorchRec's sharders: with the optimizer that FBGEMM fuses into backward, and of what is frozen."""
    trained = EmbeddingCollectionSharder(
        fused_params={"optimizer": OPTIMIZERS[config.optimizer], "learning_rate": config.lr, "eps": config.eps},
        use_index_dedup=False,  # ids come deduplicated from the loader (data/stream/collate.py)
        qcomm_codecs_registry=None if config.exchange == "float32" else {_VECTORS.name: get_qcomm_codecs(_BFLOAT16)},
    )
    frozen = _FrozenSharder(
        fused_params={"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": 0.0},  # which keeps no state
        use_index_dedup=False,
        qcomm_codecs_registry={_VECTORS.name: get_qcomm_codecs(_FLOAT16)},  # rows are float16: nothing is lost
    )
    return [trained, frozen]


def say_plan(
    plan: ShardingPlan, module: SparseModule, config: Tables, cluster: Cluster, world_size: int
) -> dict[str, Any]:
    """Where every shard lies and what each rank holds, in plain data: :func:`footprint.describe_plan`."""
    return describe_plan(plan, module.tables, OPTIMIZERS[config.optimizer].value, cluster, world_size)


def _table(name: str, rows: int, dim: int, data_type: DataType = DataType.FP32) -> EmbeddingConfig:
    # init_fn is skipped in favour of ShardedTables.initialise, which does not depend on the number of ranks.
    return EmbeddingConfig(
        name=name,
        num_embeddings=rows,
        embedding_dim=dim,
        feature_names=[name],
        data_type=data_type,
        init_fn=lambda weight: weight,
    )
