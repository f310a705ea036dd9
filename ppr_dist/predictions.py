"""The ranks of evaluated instances, written under raw ids."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ppr_dist.data.manifest import Manifest
from ppr_dist.data.raw_ids import UserIds, item_ids
from ppr_dist.parallel.distributed import DistributedContext
from ppr_dist.parquet_writer import ID_TYPES, PartWriter
from ppr_dist.tasks.base import Evaluated


def predictions_writer(folder: Path, manifest: Manifest, context: DistributedContext) -> PartWriter:
    """This rank's writer of user_id, position (clicks before the target), item_id, rank (1 = best), candidates."""
    integer = pa.int64()
    schema = pa.schema(
        [
            ("user_id", ID_TYPES[manifest.user_id_type]),
            ("position", integer),
            ("item_id", ID_TYPES[manifest.item_id_type]),
            ("rank", integer),
            ("candidates", integer),
        ]
    )
    return PartWriter(folder, context, schema)


class Predictions:
    """Writes what :func:`ppr_dist.evaluation.evaluate` ranked; ``data``: the prepared folder, for the raw ids."""

    def __init__(self, parts: PartWriter, data: Path) -> None:
        self.parts, self.users, self.items = parts, UserIds(data), item_ids(data)

    def keep(self, ranked: Evaluated) -> None:
        self.parts.write(
            {
                "user_id": self.users.take(ranked.users),
                "position": ranked.positions,
                "item_id": self.items.take(pa.array(ranked.items)),
                "rank": ranked.ranks,
                "candidates": ranked.candidates,
            }
        )
