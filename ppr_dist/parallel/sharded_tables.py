"""Embedding tables sharded over ranks by TorchRec, updated by FBGEMM inside backward: what they hold.

How rows are looked up in them: :mod:`ppr_dist.parallel.embeddings`.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen as _Kernel
from torch import Tensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv

from ppr_dist.config import Tables
from ppr_dist.data.counter_random import bits
from ppr_dist.errors import UserError
from ppr_dist.parallel.cluster import ITEM_DATA, Cluster
from ppr_dist.parallel.collectives import group_beside
from ppr_dist.parallel.input_distribution import send_ids_over
from ppr_dist.parallel.planning import make_plan
from ppr_dist.parallel.row_adam import row_adam
from ppr_dist.parallel.tables import OPTIMIZERS, SparseModule, TableSizes, make_sharders, say_plan

_GPU_ONLY = ("partial_rowwise_adam",)
_INIT_ROWS = 65_536  # rows drawn from one seed; part of what a seed means


class ShardedTables:
    """Tables of items, of what is known of them, of labels and of profiles, this rank's shards of each."""

    def __init__(
        self,
        sizes: TableSizes,
        config: Tables,
        cluster: Cluster,
        device: torch.device,
        *,
        train_items: bool = True,
        items_of: Self | None = None,
    ) -> None:
        """``items_of``: others whose tables of items these share; they must then have tables of their own."""
        if config.optimizer in _GPU_ONLY and device.type == "cpu":
            on_cpu = ", ".join(name for name in OPTIMIZERS if name not in _GPU_ONLY)
            raise UserError(f"tables.optimizer {config.optimizer} needs a GPU; on CPU there are {on_cpu}")
        self.sizes, self.config, self.device, self.train_items = sizes, config, device, train_items
        world = dist.group.WORLD
        assert world is not None
        sharders = make_sharders(config)
        planned = sizes if items_of is None else dataclasses.replace(sizes, ids=False, item_data={})
        module = SparseModule(planned, config.precision)
        plan = make_plan(module, cluster, dist.get_world_size(), sharders, world)
        self.plan = say_plan(plan, module, config, cluster, dist.get_world_size())
        """Where every shard lies, in plain data (plan.json)."""
        with row_adam(config.optimizer == "adam" and device.type == "cpu"):
            self.model = DistributedModelParallel(
                module,
                env=ShardingEnv.from_process_group(world),
                device=device,
                plan=plan,
                sharders=sharders,
                init_data_parallel=False,
            )
        own = list(self.model.module.children())
        if items_of is not None:
            self.model.module.items = items_of.model.module.items
            self.model.module.item_data = items_of.model.module.item_data
            self.plan["tables"] += [table for table in items_of.plan["tables"] if table["name"] in ("item", ITEM_DATA)]
        self._kernels: dict[str, list[_Kernel]] = {
            name: [kernel for part in collection._lookups for kernel in part.modules() if isinstance(kernel, _Kernel)]
            for name, collection in self.model.module.named_children()
        }
        """FBGEMM's modules on this rank, by collection."""
        self.scale_lr(1.0)
        self._filled: bool = not sizes.item_data if items_of is None else items_of._filled
        self.ids_group = group_beside(device)
        """Process group of what is prefetched."""
        for collection in own:
            send_ids_over(collection, self.ids_group if dist.get_world_size() > 1 else None)

    def state_dict(self) -> dict[str, Any]:
        """Sharded weights by table, for DCP; not of item data, which the prepared folder has."""
        return {name: value for name, value in self.model.state_dict().items() if not name.startswith(f"{ITEM_DATA}.")}

    def optimizer_state_dict(self) -> dict[str, Any]:
        """Sharded optimizer state by table, for DCP; loading into it changes the optimizer in place.

        A rank without a shard of a table has no entry for it.
        """
        state = self.model.fused_optimizer.state_dict()["state"]
        return {name: value for name, value in state.items() if not name.startswith(f"{ITEM_DATA}.")}

    def optimizer_steps(self) -> dict[str, Tensor]:
        """Steps that Adam's bias correction counts, int64 scalars by collection. A collective; waits for a GPU.

        TorchRec leaves them out of the optimizer's state: without them a resumed Adam takes steps far too small.
        """
        steps = {}
        for name, kernels in self._kernels.items():
            if name == ITEM_DATA:
                continue
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
        """Yield (table, weights of this rank's shard, its first row, its first column); not of item data."""
        yield from _shards(self.state_dict())

    def own_rows(self) -> tuple[int, int, Callable[[int, int], dict[str, Tensor]]] | None:
        """The part of the catalogue that lies on this rank: (first item, items, function); None: rows do not lie whole.

        ``function(start, stop)`` gives float32 rows by name of the part's items ``start`` to ``stop``. None on all
        ranks together: where columns are sharded, where one rank holds all and the others would stand by, or where a
        cache holds rows newer than the table's.
        """
        of_items = [table for table in self.plan["tables"] if table["name"] in ("item", ITEM_DATA)]
        kinds = ("row_wise", "table_wise") if self.plan["world_size"] == 1 else ("row_wise",)
        if any(t["sharding_type"] not in kinds or t["compute_kernel"] != "fused" for t in of_items):
            return None
        shards = {name: (first, weights) for name, weights, first, _ in _shards(self.model.state_dict())}
        own = [shards[table["name"]] for table in of_items if table["name"] in shards]  # row-wise, all are cut alike
        first, items = (own[0][0], len(own[0][1])) if own else (0, 0)

        def rows(start: int, stop: int) -> dict[str, Tensor]:
            found = {"id": shards["item"][1][start:stop].float()} if "item" in shards else {}
            if ITEM_DATA in shards:
                found |= self.sizes.split_item_data(shards[ITEM_DATA][1][start:stop].float())
            return found

        return first, items, rows

    @torch.no_grad()
    def fill_item_data(self, arrays: Mapping[str, npt.NDArray[np.float16]]) -> None:
        """Copy this rank's part of what is known of items, [items, columns] by name (a memory map will do)."""
        for table, weight, first, first_column in _shards(self.model.state_dict()):
            if table != ITEM_DATA:
                continue
            for start in range(0, len(weight), _INIT_ROWS):
                rows = slice(first + start, first + min(start + _INIT_ROWS, len(weight)))
                block = torch.zeros(rows.stop - rows.start, self.sizes.columns_of(ITEM_DATA), dtype=torch.float16)
                filled = np.concatenate([arrays[name][rows] for name in self.sizes.item_data], axis=1)
                block[:, : filled.shape[1]] = torch.from_numpy(filled)
                weight[start : start + len(block)] = block[:, first_column : first_column + weight.shape[1]]
        self._filled = True

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fill with N(0, init_std²), the same values under any sharding and number of ranks."""
        for table, weight, first_row, first_column in self.local_shards():
            key = zlib.crc32(table.encode())
            columns = self.sizes.columns_of(table)
            for block in range(first_row // _INIT_ROWS, math.ceil((first_row + len(weight)) / _INIT_ROWS)):
                generator = torch.Generator(self.device).manual_seed(int(bits(seed, key, block)[0] >> 1))
                rows = min(_INIT_ROWS, self.sizes.rows_of(table) - block * _INIT_ROWS)
                values = torch.randn(rows, columns, generator=generator, device=self.device)
                start, stop = (
                    max(first_row, block * _INIT_ROWS),
                    min(first_row + len(weight), block * _INIT_ROWS + rows),
                )
                part = values[start - block * _INIT_ROWS : stop - block * _INIT_ROWS]
                part = part[:, first_column : first_column + weight.shape[1]]
                weight[start - first_row : stop - first_row] = part * self.config.init_std

    def parameters_count(self, *, trainable: bool) -> int:
        """Elements of all tables, or of those that are trainable; item data is none."""
        profiles = sum(self.sizes.attributes.values()) * self.sizes.attribute_dim
        profiles *= len(self.sizes.uses)
        labels = sum(self.sizes.labels.values()) * self.sizes.dim
        items = self.sizes.items * self.sizes.dim if self.sizes.ids else 0
        return profiles + labels + (items if self.train_items or not trainable else 0)


def _shards(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor, int, int]]:
    """(Table, weights, first row, first column) of this rank's shards of sharded weights by their names."""
    for name, weight in state.items():
        table = name.removesuffix(".weight").split(".embeddings.")[-1]
        for shard in weight.local_shards():
            row, column = shard.metadata.shard_offsets
            yield table, shard.tensor, row, column
