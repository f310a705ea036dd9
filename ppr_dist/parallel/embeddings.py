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
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen as _Kernel
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv

from ppr_dist.batch import Batch
from ppr_dist.config import Tables
from ppr_dist.data.counter_random import bits
from ppr_dist.errors import UserError
from ppr_dist.parallel.cluster import Cluster
from ppr_dist.parallel.collectives import group_beside
from ppr_dist.parallel.input_distribution import InputDistribution, send_ids_over
from ppr_dist.parallel.planning import make_plan
from ppr_dist.parallel.row_adam import row_adam
from ppr_dist.parallel.tables import OPTIMIZERS, SparseModule, TableSizes, make_sharder, profile_table, say_plan

_GPU_ONLY = ("partial_rowwise_adam",)
_INIT_ROWS = 65_536  # rows drawn from one seed; part of what a seed means


@dataclasses.dataclass(frozen=True)
class PendingLookUp:
    """Ids of a batch under way to the ranks that hold their rows. Each is looked up once."""

    items: InputDistribution
    profiles: InputDistribution | None
    profile_rows: Tensor
    """``Batch.profile_rows``."""

    def send_ids(self) -> None:
        for ids in self._distributions():
            ids.send_ids()

    def wait(self) -> None:
        for ids in self._distributions():
            ids.wait()

    def _distributions(self) -> list[InputDistribution]:
        return [ids for ids in (self.items, self.profiles) if ids is not None]


class ShardedEmbeddings:
    """Sharded tables with one look-up per step for items and one for profiles."""

    def __init__(
        self,
        sizes: TableSizes,
        config: Tables,
        cluster: Cluster,
        device: torch.device,
        *,
        train_items: bool = True,
    ) -> None:
        if config.optimizer in _GPU_ONLY and device.type == "cpu":
            on_cpu = ", ".join(name for name in OPTIMIZERS if name not in _GPU_ONLY)
            raise UserError(f"tables.optimizer {config.optimizer} needs a GPU; on CPU there are {on_cpu}")
        self.sizes, self.config, self.device, self.train_items = sizes, config, device, train_items
        world = dist.group.WORLD
        assert world is not None
        sharder = make_sharder(config)
        module = SparseModule(sizes, config.precision)
        plan = make_plan(module, cluster, dist.get_world_size(), [sharder], world)
        self.plan = say_plan(plan, module, config, cluster, dist.get_world_size())
        """Where every shard lies, in plain data (plan.json)."""
        with row_adam(config.optimizer == "adam" and device.type == "cpu"):
            self.model = DistributedModelParallel(
                module,
                env=ShardingEnv.from_process_group(world),
                device=device,
                plan=plan,
                sharders=[sharder],
                init_data_parallel=False,
            )
        self._kernels: dict[str, list[_Kernel]] = {
            name: [kernel for part in collection._lookups for kernel in part.modules() if isinstance(kernel, _Kernel)]
            for name, collection in self.model.module.named_children()
        }
        """FBGEMM's modules on this rank, by collection."""
        self.scale_lr(1.0)
        self.ids_group = group_beside(device)
        """Process group of what is prefetched."""
        for collection in self.model.module.children():
            send_ids_over(collection, self.ids_group if dist.get_world_size() > 1 else None)

    # Look-ups -------------------------------------------------------------------------------------------------

    def start_look_up(self, batch: Batch) -> PendingLookUp:
        """Begin to send a batch's ids to the ranks that hold their rows. A collective."""
        values, counts, rows = self._visible(batch)
        profiles = self._start_profiles(values, counts)
        return PendingLookUp(self._start_items(self._with_references(batch.item_ids)), profiles, rows)

    def look_up(self, pending: PendingLookUp) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows as they stand now: of items [U, D], those of the reference items behind them, and x_u [B, A·d] by use.

        A collective.
        """
        return self._item_rows(pending.items), self._profiles(pending.profiles, pending.profile_rows)

    def look_up_batch(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What :meth:`look_up` returns, from the ids on. A collective."""
        pending = self.start_look_up(batch)
        pending.send_ids()
        pending.wait()
        return self.look_up(pending)

    def look_up_items(self, ids: Tensor) -> Tensor:
        """Rows of ``ids`` int64 [U] → float32 [U, D]; without gradient where items are frozen. A collective."""
        items = self._start_items(ids)
        items.send_ids()
        items.wait()
        return self._item_rows(items)

    def _visible(self, batch: Batch) -> tuple[Tensor, tuple[int, ...], Tensor]:
        """Values, counts and rows of the attributes that there are tables for."""
        columns, counts = self.sizes.columns, batch.profile_counts
        if len(columns) == len(counts):
            return batch.profile_values, counts, batch.profile_rows
        values = batch.profile_values.split(list(counts))
        rows, first = [], 0
        for column in columns:
            rows.append(batch.profile_rows[column] - sum(counts[:column]) + first)
            first += counts[column]
        nothing = batch.profile_values[:0]
        return (
            torch.cat([nothing, *(values[column] for column in columns)]),
            tuple(counts[column] for column in columns),
            torch.stack(rows) if rows else batch.profile_rows[:0],
        )

    def _with_references(self, ids: Tensor) -> Tensor:
        if not self.sizes.reference_items:
            return ids
        return torch.cat([ids, torch.tensor(self.sizes.reference_items).to(ids.device, non_blocking=True)])

    def _start_items(self, ids: Tensor) -> InputDistribution:
        return InputDistribution(self.model.module.items, ids, {"item": len(ids)})

    def _start_profiles(self, values: Tensor, counts: tuple[int, ...]) -> InputDistribution | None:
        if self.model.module.profiles is None:
            return None
        uses, of_attribute = self.sizes.uses, list(zip(self.sizes.attributes, counts, strict=True))
        by_table = {profile_table(use, name): count for use in uses for name, count in of_attribute}
        return InputDistribution(self.model.module.profiles, values.repeat(len(uses)), by_table)

    def _item_rows(self, ids: InputDistribution) -> Tensor:
        with torch.set_grad_enabled(self.train_items and torch.is_grad_enabled()):
            out: Tensor = ids.look_up()["item"].values()
        self._no_step_without_gradient("items")
        return out

    def _profiles(self, values: InputDistribution | None, rows: Tensor) -> dict[str, Tensor]:
        if values is None:
            return {}
        found = values.look_up()
        self._no_step_without_gradient("profiles")

        def x_u(use: str) -> Tensor:
            vectors = torch.cat([found[profile_table(use, name)].values() for name in self.sizes.attributes])
            return nn.functional.embedding(rows.T, vectors).flatten(1)

        return {use: x_u(use) for use in self.sizes.uses}

    def _no_step_without_gradient(self, collection: str) -> None:
        """Take back that FBGEMM counts every look-up as a step of the optimizer."""
        if not torch.is_grad_enabled():
            for kernel in self._kernels[collection]:
                kernel.iter.sub_(1)
                kernel.iter_cpu.sub_(1)

    # State ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Sharded weights by table, for DCP."""
        return dict(self.model.state_dict())

    def optimizer_state_dict(self) -> dict[str, Any]:
        """Sharded optimizer state by table, for DCP; loading into it changes the optimizer in place.

        A rank without a shard of a table has no entry for it.
        """
        return dict(self.model.fused_optimizer.state_dict()["state"])

    def optimizer_steps(self) -> dict[str, Tensor]:
        """Steps that Adam's bias correction counts, int64 scalars by collection. A collective; waits for a GPU.

        TorchRec leaves them out of the optimizer's state: without them a resumed Adam takes steps far too small.
        """
        steps = {}
        for name, kernels in self._kernels.items():
            steps[name] = torch.tensor(max((int(kernel.iter) for kernel in kernels), default=0))
            dist.all_reduce(steps[name], dist.ReduceOp.MAX)  # a rank without a shard has none
        return steps

    def set_optimizer_steps(self, steps: dict[str, Tensor]) -> None:
        """Put back what :meth:`optimizer_steps` returned, or some of it."""
        for name, step in steps.items():
            for kernel in self._kernels[name]:
                kernel.set_optimizer_step(int(step))
                kernel.iter_cpu.zero_()  # its copy on the host, taken anew from `iter` where it is 0

    def scale_lr(self, share: float) -> None:
        """Set the learning rates of the coming backward passes to ``share`` of what the configuration says."""
        items = self.config.lr if self.config.pretrained_lr is None else self.config.pretrained_lr
        for name, kernels in self._kernels.items():
            for kernel in kernels:
                kernel.set_learning_rate(share * (items if name == "items" else self.config.lr))

    def local_shards(self) -> Iterator[tuple[str, Tensor, int, int]]:
        """Yield (table, weights of this rank's shard, its first row, its first column)."""
        for name, weight in self.state_dict().items():
            table = name.removesuffix(".weight").split(".embeddings.")[-1]
            for shard in weight.local_shards():
                row, column = shard.metadata.shard_offsets
                yield table, shard.tensor, row, column

    def own_rows(self) -> list[tuple[int, Tensor]] | None:
        """(First item, weights [n, D]) of this rank's parts of the item table; None where rows do not lie whole.

        None on all ranks together: where columns are sharded, where one rank holds all and the others would stand by,
        or where a cache holds rows newer than the table's.
        """
        (item,) = [table for table in self.plan["tables"] if table["name"] == "item"]
        kinds = ("row_wise", "table_wise") if self.plan["world_size"] == 1 else ("row_wise",)
        if item["sharding_type"] not in kinds or item["compute_kernel"] != "fused":
            return None
        return [(row, weights) for table, weights, row, _ in self.local_shards() if table == "item"]

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
        """Elements of all tables, or of those that are trainable."""
        profiles = sum(self.sizes.attributes.values()) * self.sizes.attribute_dim
        profiles *= len(self.sizes.uses)
        return profiles + (self.sizes.items * self.sizes.dim if self.train_items or not trainable else 0)
