"""What DCP wrote, read as data: nothing in a checkpoint's files is run, and a damaged one is named."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType

from ppr_dist.checkpoint import checksums
from ppr_dist.errors import UserError

PART = 2**24
"""Most bytes of a tensor read at once."""


def names(checkpoint: Path) -> set[str]:
    """Names of all that a checkpoint holds."""
    return set(_Reader(str(checkpoint)).read_metadata().state_dict_metadata)


def load(state: dict[str, Any], checkpoint: Path) -> None:
    """Fill ``state`` in place from a checkpoint. A collective.

    Raises :class:`UserError` naming the file that is damaged or missing, or where names and shapes are others.
    """
    _check(checkpoint)
    try:
        dcp.load(state, storage_reader=_Reader(str(checkpoint)), planner=_DataOnlyPlanner())
    except dcp.api.CheckpointException as error:
        reasons = [reason for reason, _ in error.failures.values()]
        for reason in reasons:
            if isinstance(reason, UserError):
                raise reason from error
        # What the plan of the reading refuses: names and shapes. The files themselves are _Reader's.
        reason = next(iter(reasons), error)
        if "tables_optimizer." in str(reason):  # a size: as many numbers of each row as parts of its columns
            raise UserError(
                f"{checkpoint}: a row-wise optimizer keeps a number of each row and part of its columns, and these "
                "columns were in other parts: go on with the sharding that it was written with"
            ) from error
        raise UserError(f"{checkpoint}: does not fit this model ({str(reason).splitlines()[0]})") from error


def read_tensor(checkpoint: Path, name: str) -> torch.Tensor:
    """One tensor whole, whatever shards it was written in; for one process by itself.

    Raises :class:`UserError` where it is not there.
    """
    reader = _Reader(str(checkpoint))
    found = reader.read_metadata().state_dict_metadata.get(name)
    if not isinstance(found, TensorStorageMetadata):
        raise UserError(f"{checkpoint}: holds no tensor {name}")
    state = {name: torch.empty(found.size, dtype=found.properties.dtype)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as asked for
        dcp.load(state, storage_reader=reader, planner=_DataOnlyPlanner(flatten_state_dict=False), no_dist=True)
    return state[name]


@functools.cache
def _check(checkpoint: Path) -> None:
    """Once for each checkpoint that a process loads: tables and dense parameters come one after the other."""
    checksums.check(checkpoint)


class _DataOnlyUnpickler(pickle.Unpickler):
    """DCP pickles its table of contents; accept only the plain data classes that it consists of.

    Each by its full name: a module let in whole would bring what it imports (``torch.serialization`` → ``os.system``).
    """

    _NAMES = (
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),  # a layout by its name
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("pathlib", "PosixPath"),
        *(
            ("torch.distributed.checkpoint.metadata", name)
            for name in (
                "BytesStorageMetadata",
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorProperties",
                "TensorStorageMetadata",
                "_MEM_FORMAT_ENCODING",
            )
        ),
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or (module, name) in self._NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not checkpoint data")


def _memory_format(kind: Any, name: str) -> _MEM_FORMAT_ENCODING:
    """A member of the one enumeration that there is: Python 3.11.0 to 3.11.3 pickle it as an attribute of its class."""
    if kind is not _MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"it refers to {name} of {kind}, which is not checkpoint data")
    return _MEM_FORMAT_ENCODING[name]


class _Reader(dcp.FileSystemReader):
    def read_data(self, plan: Any, planner: Any) -> Any:
        """File by file, so that a damaged one is named; what torch says of it may advise to load it unsafely."""
        files: dict[str, list[Any]] = {}
        for item in plan.items:
            files.setdefault(self.storage_data[item.storage_index].relative_path, []).append(item)
        done: Any = torch.futures.Future()
        for name, items in files.items():
            path = Path(self.path) / name
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="Detected pickle protocol")  # a damaged file's, of noise
                    large = [item for item in items if self._in_parts(item)]
                    rest = [item for item in items if not self._in_parts(item)]
                    super().read_data(dataclasses.replace(plan, items=rest), planner)
                    for item in large:
                        self._read_in_parts(item, path, planner)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from error
            except Exception as error:  # a damaged file raises whatever it comes to
                raise UserError(f"{path}: damaged, or not checkpoint data") from error
        done.set_result(None)
        return done

    def _in_parts(self, item: Any) -> bool:
        where = self.storage_data[item.storage_index]
        return item.type == LoadItemType.TENSOR and where.length > PART and not where.transform_descriptors

    def _read_in_parts(self, item: Any, path: Path, planner: Any) -> None:
        """Rows [n, …] of a tensor into their place, PART bytes at a time: DCP would hold all it reads beside it."""
        where, target = self.storage_data[item.storage_index], planner.resolve_tensor(item).detach()
        with path.open("rb") as file:
            with FakeTensorMode():  # its shape, and where in the file its numbers begin
                saved = torch.load(self._slice_file(file, where), map_location="cpu", weights_only=True)
            start = where.offset + saved.untyped_storage()._checkpoint_offset
            start += saved.storage_offset() * saved.element_size()
            (first, *offsets), (rows, *lengths) = item.storage_offsets, item.lengths
            row_bytes = saved[0].numel() * saved.element_size()
            if not saved.is_contiguous() or target.shape != torch.Size(item.lengths):
                raise ValueError("not the tensor that was asked for")
            at_once = max(1, PART // row_bytes)
            for row in range(0, rows, at_once):
                count = min(at_once, rows - row)
                file.seek(start + (first + row) * row_bytes)
                numbers = bytearray(file.read(count * row_bytes))
                part = torch.frombuffer(numbers, dtype=saved.dtype).view(count, *saved.shape[1:])
                for dim, (offset, length) in enumerate(zip(offsets, lengths, strict=True), 1):
                    part = part.narrow(dim, offset, length)
                target[row : row + count].copy_(part)
        planner.commit_tensor(item, target)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / ".metadata"
        try:
            metadata = _DataOnlyUnpickler(io.BytesIO(path.read_bytes())).load()
            if not isinstance(metadata, Metadata):
                raise TypeError(f"it holds a {type(metadata).__name__}")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except Exception as error:  # a damaged pickle raises whatever it comes to
            raise UserError(f"{path}: damaged, or not checkpoint data ({error})") from error
        metadata.storage_meta = metadata.storage_meta or dcp.metadata.StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _DataOnlyPlanner(DefaultLoadPlanner):
    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        """Non-tensor entries, under torch's weights-only unpickler."""
        loaded = torch.load(value, weights_only=True)
        if self.flatten_state_dict:
            dcp._nested_dict.set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], loaded)
        else:
            self.state_dict[read_item.dest_index.fqn] = loaded
