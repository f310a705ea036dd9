"""What a table says, as a hash: not how a file holds it, which changes with every writer's version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def ids_sha256(chunks: Iterable[pa.Array]) -> str:
    """SHA-256, in hex, of integers or strings (no null among them) in their order, however they are cut into chunks.

    The hash of two: of each value's length in bytes (int64; an integer's is 8), and of all bytes one after another.
    """
    lengths, content = hashlib.sha256(), hashlib.sha256()
    for chunk in chunks:
        if pa.types.is_integer(chunk.type):
            values = chunk.to_numpy().astype("<i8")
            lengths.update(np.full(len(values), 8, "<i8").tobytes())
            content.update(values.tobytes())
        else:
            lengths.update(pc.binary_length(chunk).to_numpy().astype("<i8").tobytes())
            text = chunk.cast(pa.large_binary())
            offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
            if len(text):
                content.update(text.buffers()[2][int(offsets[0]) : int(offsets[-1])])
    return hashlib.sha256(lengths.digest() + content.digest()).hexdigest()
