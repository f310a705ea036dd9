"""Vectors of all users of a prepared folder, on any number of ranks.

Shapes: B users, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from ppr_dist.data.prepare.splits import SPLITS
from ppr_dist.data.raw_ids import UserIds
from ppr_dist.data.stream.instances import Instances, history_batch
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.errors import warn
from ppr_dist.parallel.distributed import distributed_context
from ppr_dist.parquet_writer import ID_TYPES, PartWriter, data_set
from ppr_dist.trained import load_trained

if TYPE_CHECKING:
    from ppr_dist.encode_users import Arguments


def encode_users(arguments: Arguments) -> None:
    """Write the vector of every user after all clicks that the data has of them. A collective."""
    with distributed_context() as context, torch.no_grad(), data_set(arguments.out, context) as folder:
        trained = load_trained(arguments.run_dir, arguments.data, context, arguments.cluster, arguments.init)
        if context.main and trained.config.model.target_time:
            warn(f"{arguments.run_dir} was trained to see when the next click is made, which is not known here")
        manifest, max_length = trained.manifest, trained.config.model.max_length
        steps, blocks = users_in_order(
            trained.data,
            manifest,
            "+".join(name for name in SPLITS if name in manifest.splits),
            rank=context.rank,
            world_size=context.world_size,
            at_once=arguments.batch,
        )
        ids, hidden = UserIds(trained.data), None if arguments.progress and context.main else True
        schema = pa.schema([("user_id", ID_TYPES[manifest.user_id_type]), ("vector", pa.list_(pa.float32()))])
        with PartWriter(folder, context, schema) as parts:
            for users in tqdm(blocks, total=steps, desc="encode_users", disable=hidden):
                instances = Instances(users, np.arange(len(users)), users.lengths)
                vectors = trained.scorer.user_vectors(history_batch(instances, max_length))
                parts.write({"user_id": ids.take(users.index), "vector": _lists(vectors)})
        if context.main:
            users_of_all = sum(split.users for split in manifest.splits.values())
            print(
                f"{arguments.out}: a vector of {trained.config.model.dim} for each of {users_of_all} users", flush=True
            )


def _lists(vectors: Tensor) -> pa.ListArray:
    """[B, D] → a list of each row."""
    numbers = vectors.float().cpu().numpy()
    edges = np.arange(len(numbers) + 1, dtype=np.int32) * numbers.shape[1]
    return pa.ListArray.from_arrays(pa.array(edges), pa.array(numbers.ravel()))
