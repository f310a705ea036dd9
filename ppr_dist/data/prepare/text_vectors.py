"""Vectors of items' texts by a text encoder, written as ``prepare --item-features`` reads them.

Shapes: n texts at once, L tokens, F width of the encoder.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ppr_dist.data.prepare.item_tokens import text_of
from ppr_dist.data.prepare.sources import connect, identifier, named_errors, open_source
from ppr_dist.errors import UserError

if TYPE_CHECKING:
    from ppr_dist.encode_texts import Arguments


@torch.no_grad()
def encode_texts(arguments: Arguments, tokenizer: Any, model: torch.nn.Module) -> tuple[int, int]:
    """Write ``arguments.out`` and return how many items it holds, and F."""
    if arguments.out.exists() and not arguments.overwrite:
        raise UserError(f"{arguments.out}: is there; name another file or give --overwrite")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, written, width = model.to(device), 0, 0
    part = arguments.out.with_name(f".{arguments.out.name}.part")
    with connect() as con:
        source = open_source(con, arguments.items)
        source.require(arguments.item_column)
        text = text_of(source, arguments.text_columns, arguments.item_column)
        writer: pq.ParquetWriter | None = None
        try:
            with named_errors(arguments.items):
                reader = con.sql(
                    f"SELECT {identifier(arguments.item_column)}, {text} FROM {source.table}"
                ).to_arrow_reader(arguments.batch)
            for batch in reader:
                vectors = _vectors(batch.column(1).to_pylist(), tokenizer, model, device, arguments)
                width = vectors.shape[1]
                lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.flatten().numpy()), width)
                table = pa.table({arguments.item_column: batch.column(0), "vector": lists})
                writer = writer or pq.ParquetWriter(part, table.schema)
                writer.write_table(table)
                written += len(table)
        except OSError as error:
            raise UserError(f"{arguments.out}: cannot be written: {error}") from error
        finally:
            if writer:
                writer.close()
    if not written:
        raise UserError(f"{arguments.items}: no items in it")
    os.replace(part, arguments.out)
    return written, width


def _vectors(texts: list[str], tokenizer: Any, model: Any, device: torch.device, arguments: Arguments) -> Tensor:
    """[n, F], float32."""
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=arguments.max_tokens, return_tensors="pt").to(
        device
    )
    states: Tensor = model(**tokens).last_hidden_state  # [n, L, F]
    if arguments.pooling == "first":
        return states[:, 0].float().cpu()
    real = tokens["attention_mask"].to(states.dtype)
    return (torch.einsum("nlf,nl->nf", states, real) / real.sum(1, keepdim=True).clamp(min=1)).float().cpu()
