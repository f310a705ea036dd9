"""Adam for tables on a CPU, where FBGEMM has none: ``torch.optim.SparseAdam``'s update of the rows a step looks up.

Shapes: R rows of all tables that a kernel holds on this rank, of width D each; T ids that all ranks ask of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor
from torchrec.distributed import batched_embedding_kernel

BETAS = (0.9, 0.999)  # torch's and FBGEMM's


class RowAdam(SplitTableBatchedEmbeddingBagsCodegen):  # type: ignore[misc]
    """FBGEMM's kernel with look-up and update in torch. It holds the weights as that does, counts steps as that does,
    and names its state as that does on a GPU, so that checkpoints go from one to the other.
    """

    def __init__(self, **arguments: Any) -> None:
        assert arguments["optimizer"] == EmbOptimType.ADAM
        super().__init__(**{**arguments, "optimizer": EmbOptimType.EXACT_SGD})  # which keeps no state of its own
        rows, widths = zip(*((rows, dim) for rows, dim, _, _ in self.embedding_specs), strict=True)
        assert len(set(widths)) == 1, "TorchRec puts tables of one width into a kernel"
        self.eps: float = arguments["eps"]
        self.table_rows = list(rows)
        first = [0, *itertools.accumulate(rows)]
        self.first_rows = torch.tensor([first[table] for table in self.feature_table_map])
        """Row of [R, D] at which the table of each feature begins."""
        self.moments = [torch.zeros(sum(rows), widths[0]) for _ in BETAS]

    def rows(self) -> Tensor:
        """The weights of all tables [R, D], not a copy."""
        return self.weights_host.detach().view(-1, self.moments[0].shape[1])

    def get_optimizer_state(self) -> list[dict[str, Tensor]]:
        """Of each table, not copies."""
        split = (moment.split(self.table_rows) for moment in self.moments)
        return [dict(zip(("exp_avg", "exp_avg_sq"), state, strict=True)) for state in zip(*split, strict=True)]

    def forward(self, indices: Tensor, offsets: Tensor, *_: Any, **__: Any) -> Tensor:
        """Rows [T, D] of ``indices`` [T], feature after feature; a step is counted."""
        self.iter += 1
        self.iter_cpu.copy_(self.iter)
        samples = (len(offsets) - 1) // len(self.first_rows)
        counts = offsets[::samples].diff() if samples else torch.zeros_like(self.first_rows)
        rows = indices + self.first_rows.repeat_interleave(counts, output_size=len(indices))
        found: Tensor = _LookUp.apply(self.placeholder_autograd_tensor, rows, self)
        return found

    def update(self, rows: Tensor, gradient: Tensor, step: int) -> None:
        """Update ``rows`` [T] by their gradients [T, D], summed first where several ranks asked for one."""
        weights = self.rows()
        summed = torch.sparse_coo_tensor(rows[None], gradient, weights.shape, check_invariants=False).coalesce()
        (at,), g = summed.indices(), summed.values()
        mean, square = (moment.index_select(0, at) for moment in self.moments)
        mean += (g - mean) * (1 - BETAS[0])
        square += (g.square() - square) * (1 - BETAS[1])
        for moment, value in zip(self.moments, (mean, square), strict=True):
            moment.index_copy_(0, at, value)
        bias, bias_of_square = (1 - beta**step for beta in BETAS)
        size = self.get_learning_rate() * math.sqrt(bias_of_square) / bias
        moved = weights.index_select(0, at).float() - size * (mean / (square.sqrt_() + self.eps))
        weights.index_copy_(0, at, moved.to(weights.dtype))


class _LookUp(torch.autograd.Function):
    """Rows of a kernel's weights; its backward pass updates them, as that of FBGEMM's fused kernels does."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, rows: Tensor, kernel: RowAdam) -> Tensor:
        ctx.kernel, ctx.step = kernel, int(kernel.iter)
        ctx.save_for_backward(rows)
        return kernel.rows().index_select(0, rows).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.kernel.update(*ctx.saved_tensors, gradient, ctx.step)
        return None, None, None


@contextmanager
def row_adam(wanted: bool) -> Iterator[None]:
    """Have TorchRec make kernels of Adam so while it shards tables, if ``wanted``; it takes no kernel from outside."""
    its_own = batched_embedding_kernel.SplitTableBatchedEmbeddingBagsCodegen

    def made(**arguments: Any) -> Any:  # frozen tables have no Adam
        return (RowAdam if arguments["optimizer"] == EmbOptimType.ADAM else its_own)(**arguments)

    if wanted:
        batched_embedding_kernel.SplitTableBatchedEmbeddingBagsCodegen = made
    try:
        yield
    finally:
        batched_embedding_kernel.SplitTableBatchedEmbeddingBagsCodegen = its_own
