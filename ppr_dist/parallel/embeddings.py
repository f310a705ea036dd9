"""Embedding tables sharded over ranks by TorchRec, updated by FBGEMM inside backward.

Shapes: U distinct items, B users, A attributes, D item width, d attribute width.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
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
from ppr_dist.parallel.cluster import ITEM_DATA, Cluster
from ppr_dist.parallel.collectives import group_beside
from ppr_dist.parallel.input_distribution import InputDistribution, send_ids_over
from ppr_dist.parallel.planning import make_plan
from ppr_dist.parallel.row_adam import row_adam
from ppr_dist.parallel.tables import (
    OPTIMIZERS,
    SparseModule,
    TableSizes,
    item_data_columns,
    make_sharders,
    profile_table,
    say_plan,
)

_GPU_ONLY = ("partial_rowwise_adam",)
_INIT_ROWS = 65_536  # rows drawn from one seed; part of what a seed means


@dataclasses.dataclass(frozen=True)
class PendingLookUp:
    """Ids of a batch under way to the ranks that hold their rows. Each is looked up once."""

    items: dict[str, InputDistribution]
    """By collection: the trained rows, what is known of items, or both."""
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
        return [ids for ids in (*self.items.values(), self.profiles) if ids is not None]


class ShardedEmbeddings:
    """Sharded tables with one look-up per step for items, one for what is known of them and one for profiles."""

    def __init__(
        self,
        sizes: TableSizes,
        config: Tables,
        cluster: Cluster,
        device: torch.device,
        *,
        train_items: bool = True,
        items_of: ShardedEmbeddings | None = None,
    ) -> None:
        """``items_of``: others whose tables of items these share; they must then have profiles."""
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

    # Look-ups -------------------------------------------------------------------------------------------------

    def start_look_up(self, batch: Batch) -> PendingLookUp:
        """Begin to send a batch's ids to the ranks that hold their rows. A collective."""
        values, counts, rows = self._visible(batch)
        profiles = self._start_profiles(values, counts)
        return PendingLookUp(self._start_items(self._with_references(batch.item_ids)), profiles, rows)

    def look_up(self, pending: PendingLookUp) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Rows as they stand now: of items by name, those of the reference items behind, and x_u [B, A·d] by use.

        Of items: ``id``, the trained rows [U, D]; and each name of ``TableSizes.item_data`` [U, its columns]. A
        collective.
        """
        return self._item_rows(pending.items), self._profiles(pending.profiles, pending.profile_rows)

    def look_up_batch(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What :meth:`look_up` returns, from the ids on. A collective."""
        pending = self.start_look_up(batch)
        pending.send_ids()
        pending.wait()
        return self.look_up(pending)

    def look_up_items(self, ids: Tensor) -> dict[str, Tensor]:
        """Rows of ``ids`` int64 [U], float32 by name; without gradient where they are frozen. A collective."""
        items = self._start_items(ids)
        for each in items.values():
            each.send_ids()
        for each in items.values():
            each.wait()
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

    def _start_items(self, ids: Tensor) -> dict[str, InputDistribution]:
        collections = {"item": self.model.module.items, ITEM_DATA: self.model.module.item_data}
        return {
            table: InputDistribution(collection, ids, {table: len(ids)})
            for table, collection in collections.items()
            if collection is not None
        }

    def _start_profiles(self, values: Tensor, counts: tuple[int, ...]) -> InputDistribution | None:
        if self.model.module.profiles is None:
            return None
        uses, of_attribute = self.sizes.uses, list(zip(self.sizes.attributes, counts, strict=True))
        by_table = {profile_table(use, name): count for use in uses for name, count in of_attribute}
        return InputDistribution(self.model.module.profiles, values.repeat(len(uses)), by_table)

    def _item_rows(self, ids: dict[str, InputDistribution]) -> dict[str, Tensor]:
        rows: dict[str, Tensor] = {}
        if "item" in ids:
            with torch.set_grad_enabled(self.train_items and torch.is_grad_enabled()):
                rows["id"] = ids["item"].look_up()["item"].values()
            self._no_step_without_gradient("items")
        if ITEM_DATA in ids:
            assert self._filled, "item data is looked up before it was read"
            with torch.no_grad():
                rows |= self._item_data_by_name(ids[ITEM_DATA].look_up()[ITEM_DATA].values())
        return rows

    def _item_data_by_name(self, rows: Tensor) -> dict[str, Tensor]:
        """Columns [n, all of them] → those of each name."""
        columns = list(self.sizes.item_data.values())
        return dict(zip(self.sizes.item_data, rows[:, : sum(columns)].split(columns, dim=1), strict=True))

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
                found |= self._item_data_by_name(shards[ITEM_DATA][1][start:stop].float())
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
                block = torch.zeros(rows.stop - rows.start, self._columns(ITEM_DATA), dtype=torch.float16)
                filled = np.concatenate([arrays[name][rows] for name in self.sizes.item_data], axis=1)
                block[:, : filled.shape[1]] = torch.from_numpy(filled)
                weight[start : start + len(block)] = block[:, first_column : first_column + weight.shape[1]]
        self._filled = True

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fill with N(0, init_std²), the same values under any sharding and number of ranks."""
        for table, weight, first_row, first_column in self.local_shards():
            key = zlib.crc32(table.encode())
            columns = self._columns(table)
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

    def _columns(self, table: str) -> int:
        if table == ITEM_DATA:
            return item_data_columns(self.sizes)
        return self.sizes.dim if table == "item" else self.sizes.attribute_dim

    def parameters_count(self, *, trainable: bool) -> int:
        """Elements of all tables, or of those that are trainable; item data is none."""
        profiles = sum(self.sizes.attributes.values()) * self.sizes.attribute_dim
        profiles *= len(self.sizes.uses)
        items = self.sizes.items * self.sizes.dim if self.sizes.ids else 0
        return profiles + (items if self.train_items or not trainable else 0)


def _shards(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor, int, int]]:
    """(Table, weights, first row, first column) of this rank's shards of sharded weights by their names."""
    for name, weight in state.items():
        table = name.removesuffix(".weight").split(".embeddings.")[-1]
        for shard in weight.local_shards():
            row, column = shard.metadata.shard_offsets
            yield table, shard.tensor, row, column
