"""Rows looked up in the sharded tables: ids travel to the ranks that hold them, rows back, gradients the same way.

Shapes: U distinct items, u distinct labels of a space, B users, A attributes, D item width, d attribute width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ppr_dist.batch import Batch
from ppr_dist.parallel.cluster import ITEM_DATA
from ppr_dist.parallel.input_distribution import InputDistribution
from ppr_dist.parallel.sharded_tables import ShardedTables
from ppr_dist.parallel.tables import label_table, profile_table


@dataclasses.dataclass(frozen=True)
class PendingLookUp:
    """Ids of a batch under way to the ranks that hold their rows. Each is looked up once."""

    items: dict[str, InputDistribution]
    """By collection: the trained rows, what is known of items, or both."""
    labels: InputDistribution | None
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
        return [ids for ids in (*self.items.values(), self.labels, self.profiles) if ids is not None]


class ShardedEmbeddings(ShardedTables):
    """Tables with one look-up per step for items, and one each for what is known of them, labels and profiles."""

    def start_look_up(self, batch: Batch) -> PendingLookUp:
        """Begin to send a batch's ids to the ranks that hold their rows. A collective."""
        values, counts, rows = self._visible(batch)
        profiles = self._start_profiles(values, counts)
        items = self._start_items(self._with_references(batch.item_ids))
        return PendingLookUp(items, self._start_labels(batch.label_ids), profiles, rows)

    def look_up(self, pending: PendingLookUp) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Rows as they stand now: of items by name, those of the reference items behind; x_u [B, A·d] by use; and of
        labels [u, D] by space.

        Of items: ``id``, the trained rows [U, D]; and each name of ``TableSizes.item_data`` [U, its columns]. A
        collective.
        """
        items, profiles = self._item_rows(pending.items), self._profiles(pending.profiles, pending.profile_rows)
        return items, profiles, self._label_rows(pending.labels)

    def look_up_batch(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
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

    def look_up_labels(self, space: str, ids: Tensor) -> Tensor:
        """Rows [u, D] of ``ids`` int64 [u], float32. A collective."""
        labels = self._start_labels({space: ids})
        assert labels is not None
        labels.send_ids()
        labels.wait()
        return self._label_rows(labels)[space]

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

    def _start_labels(self, ids: dict[str, Tensor]) -> InputDistribution | None:
        """Of each space the ids asked for, of spaces that are not named none; None where no space is named."""
        if not ids:
            return None
        nothing = next(iter(ids.values()))[:0]
        of_tables = {label_table(space): ids.get(space, nothing) for space in self.sizes.labels}
        counts = {table: len(asked) for table, asked in of_tables.items()}
        return InputDistribution(self.model.module.labels, torch.cat(list(of_tables.values())), counts)

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
                rows |= self.sizes.split_item_data(ids[ITEM_DATA].look_up()[ITEM_DATA].values())
        return rows

    def _label_rows(self, ids: InputDistribution | None) -> dict[str, Tensor]:
        if ids is None:
            return {}
        found = ids.look_up()
        self._no_step_without_gradient("labels")
        return {space: found[label_table(space)].values() for space in self.sizes.labels}

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
