"""Embedding tables sharded over ranks by TorchRec, updated by FBGEMM inside backward.

Shapes: U distinct items, B users, A attributes, D item width, d attribute width.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.sharding.dp_sharding import DpSparseFeaturesDist
from torchrec.distributed.types import ShardingEnv
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ppr_dist.config import Tables as TablesConfig
from ppr_dist.data.counter_random import bits
from ppr_dist.errors import UserError
from ppr_dist.parallel.cluster import Cluster
from ppr_dist.parallel.footprint import describe_plan
from ppr_dist.parallel.planning import make_plan

_OPTIMIZERS = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adam": EmbOptimType.ADAM,
    "partial_rowwise_adam": EmbOptimType.PARTIAL_ROWWISE_ADAM,
}
_GPU_ONLY = ("adam", "partial_rowwise_adam")
_INIT_ROWS = 65_536  # rows drawn from one seed; part of what a seed means
_SAMPLES = 4096  # see _features; some thousand warps keep a GPU's memory busy


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSizes:
    """Which tables a model has."""

    items: int
    dim: int
    attributes: dict[str, int]
    """Cardinality by name; each has a table for the prompt and one for the profile tower."""
    attribute_dim: int
    with_prompt: bool
    with_tower: bool

    @property
    def uses(self) -> tuple[str, ...]:
        """What profiles are embedded for; each use has tables of its own."""
        return ("prompt",) * self.with_prompt + ("tower",) * self.with_tower


def profile_table(use: str, attribute: str) -> str:
    """Name of an attribute's table; torch modules may not have a dot in their names."""
    return f"{use}:{attribute.replace('.', '%2E')}"


class SparseModule(nn.Module):
    """The unsharded description: ``items`` and, where profiles are used, ``profiles``."""

    def __init__(self, sizes: TableSizes) -> None:
        super().__init__()
        # On the meta device: no rank ever holds a whole table.
        meta = torch.device("meta")
        self.items = EmbeddingCollection(tables=[_table("item", sizes.items, sizes.dim)], device=meta)
        tables = [
            _table(profile_table(use, a), n, sizes.attribute_dim)
            for use in sizes.uses
            for a, n in sizes.attributes.items()
        ]
        self.profiles = EmbeddingCollection(tables=tables, device=meta) if tables else None


def _table(name: str, rows: int, dim: int) -> EmbeddingConfig:
    # init_fn is skipped in favour of Tables.initialise, which does not depend on the number of ranks.
    return EmbeddingConfig(
        name=name, num_embeddings=rows, embedding_dim=dim, feature_names=[name], init_fn=lambda weight: weight
    )


class Tables:
    """Sharded tables with one look-up per step for items and one for profiles."""

    def __init__(
        self,
        sizes: TableSizes,
        config: TablesConfig,
        cluster: Cluster,
        device: torch.device,
        *,
        train_items: bool = True,
    ) -> None:
        if config.optimizer in _GPU_ONLY and device.type == "cpu":
            on_cpu = ", ".join(name for name in _OPTIMIZERS if name not in _GPU_ONLY)
            raise UserError(f"tables.optimizer {config.optimizer} needs a GPU; on CPU there are {on_cpu}")
        self.sizes, self.config, self.device, self.train_items = sizes, config, device, train_items
        world = dist.group.WORLD
        assert world is not None
        sharder = EmbeddingCollectionSharder(
            fused_params={
                "optimizer": _OPTIMIZERS[config.optimizer],
                "learning_rate": config.lr,
                "eps": config.eps,
            },
            use_index_dedup=False,  # ids come deduplicated from the loader (data/collate.py)
        )
        module = SparseModule(sizes)
        plan = make_plan(module, cluster, dist.get_world_size(), [sharder], world)
        collections = [c for c in (module.items, module.profiles) if c is not None]
        self.plan = describe_plan(
            plan,
            [table for collection in collections for table in collection.embedding_configs()],
            _OPTIMIZERS[config.optimizer].value,
            cluster,
            dist.get_world_size(),
        )
        """Where every shard lies, in plain data (plan.json)."""
        self.model = DistributedModelParallel(
            module,
            env=ShardingEnv.from_process_group(world),
            device=device,
            plan=plan,
            sharders=[sharder],
            init_data_parallel=False,
        )
        if dist.get_world_size() == 1:
            for collection in (self.model.module.items, self.model.module.profiles):
                _keep_ids_here(collection)

    # Look-ups -------------------------------------------------------------------------------------------------

    def look_up_items(self, ids: Tensor) -> Tensor:
        """Vectors of ``ids`` int64 [U] → [U, D]; without gradient where items stand still. A collective."""
        with torch.set_grad_enabled(self.train_items and torch.is_grad_enabled()):
            features = _features(["item"], ids)
            out: Tensor = self.model.module.items(features)["item"].values()
        return out

    def look_up_profiles(self, profile: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """x_u of value indices int64 [A, B]: (for the prompt, for the tower), each [B, A·d] or None. A collective."""
        if self.model.module.profiles is None:
            return None, None
        uses, names = self.sizes.uses, list(self.sizes.attributes)
        keys = [profile_table(use, name) for use in uses for name in names]
        found = self.model.module.profiles(_features(keys, profile.reshape(-1).repeat(len(uses))))

        def x_u(use: str) -> Tensor | None:
            if use not in uses:
                return None
            return torch.cat([found[profile_table(use, name)].values() for name in names], dim=1)

        return x_u("prompt"), x_u("tower")

    # State ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Sharded weights by table, for DCP."""
        return dict(self.model.state_dict())

    def optimizer_state_dict(self) -> dict[str, Any]:
        """Sharded optimizer state by table, for DCP; loading into it changes the optimizer in place.

        A rank without a shard of a table has no entry for it.
        """
        return dict(self.model.fused_optimizer.state_dict()["state"])

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the coming backward passes."""
        for group in self.model.fused_optimizer.param_groups:
            group["lr"] = lr
        self.model.fused_optimizer.step()  # hands lr to the kernels; the update itself happens in backward

    def local_shards(self) -> Iterator[tuple[str, Tensor, int, int]]:
        """Yield (table, weights of this rank's shard, its first row, its first column)."""
        for name, weight in self.state_dict().items():
            table = name.removesuffix(".weight").split(".embeddings.")[-1]
            for shard in weight.local_shards():
                row, column = shard.metadata.shard_offsets
                yield table, shard.tensor, row, column

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fill with N(0, init_std²), the same values under any sharding and number of ranks."""
        for table, weight, first_row, first_column in self.local_shards():
            key = zlib.crc32(table.encode())
            columns = self.sizes.dim if table == "item" else self.sizes.attribute_dim
            for block in range(first_row // _INIT_ROWS, math.ceil((first_row + len(weight)) / _INIT_ROWS)):
                generator = torch.Generator(self.device).manual_seed(int(bits(seed, key, block)[0] >> 1))
                rows = min(_INIT_ROWS, self._rows(table) - block * _INIT_ROWS)
                values = torch.randn(rows, columns, generator=generator, device=self.device)
                start, stop = (
                    max(first_row, block * _INIT_ROWS),
                    min(first_row + len(weight), block * _INIT_ROWS + rows),
                )
                part = values[start - block * _INIT_ROWS : stop - block * _INIT_ROWS]
                part = part[:, first_column : first_column + weight.shape[1]]
                weight[start - first_row : stop - first_row] = part * self.config.init_std

    def _rows(self, table: str) -> int:
        rows = {profile_table(use, name): n for use in self.sizes.uses for name, n in self.sizes.attributes.items()}
        return self.sizes.items if table == "item" else rows[table]

    def parameters_count(self, *, trainable: bool) -> int:
        """Elements of all tables, or of those that learn."""
        profiles = sum(self.sizes.attributes.values()) * self.sizes.attribute_dim
        profiles *= len(self.sizes.uses)
        return profiles + (self.sizes.items * self.sizes.dim if self.train_items or not trainable else 0)


def _features(keys: list[str], values: Tensor) -> KeyedJaggedTensor:
    """The same number of ids for every key, key after key, as TorchRec wants them. Does not wait for a GPU.

    What TorchRec takes for samples means nothing here. FBGEMM's CUDA kernels give each sample one warp (and one thread
    where they sort ids by owning rank), so the ids are dealt to many; as many on every rank, though the number of ids
    may differ, because other numbers would have to be exchanged first.
    """
    each = len(values) // len(keys)
    lengths = torch.full((len(keys), _SAMPLES), each // _SAMPLES, dtype=torch.int64, device=values.device)
    lengths[:, : each % _SAMPLES] += 1
    # length_per_key is what TorchRec would otherwise copy back from the GPU.
    return KeyedJaggedTensor(keys=keys, values=values, lengths=lengths.view(-1), length_per_key=[each] * len(keys))


def _keep_ids_here(collection: Any) -> None:
    """Let the only rank look its ids up as they are.

    TorchRec would exchange nothing, yet make a permutation on the host and wait for its copy to the GPU.
    """
    for sharding in collection._sharding_type_to_sharding.values() if collection is not None else ():
        sharding.create_input_dist = DpSparseFeaturesDist
