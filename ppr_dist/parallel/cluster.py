"""Clusters as data: the machines, and what the planner may do with each table, read from ``sharding/*.yaml``.

GB means 2**30 bytes of memory, and 10**9 bytes per second of bandwidth.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from ppr_dist.errors import UserError
from ppr_dist.files import require_single_keys

GIB = 2**30
KERNELS = {"cpu": ("fused",), "cuda": ("fused", "fused_uvm_caching", "fused_uvm")}
"""Compute kernels by device; the fused_uvm kinds keep weights and optimizer state in host memory."""

# No data_parallel: given stride-1 inputs, TorchRec's dense kernel on CPU returns one row per key, not per id.
SHARDING_TYPES = ("row_wise", "column_wise", "table_wise")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConstraint:
    """What the planner may do with one table or group of tables; it picks the fastest that fits."""

    sharding_types: tuple[str, ...] = ("row_wise",)
    """Any of row_wise, column_wise, table_wise. row_wise needs a row on every rank, else table_wise."""
    compute_kernels: tuple[str, ...] = ("fused",)
    """fused; on cuda also fused_uvm_caching (rows in host memory, hot ones cached on the GPU), fused_uvm."""
    ids_per_step: float = 25600.0
    """Look-ups a rank asks of this table in one step (ids); drives the input/output estimate."""
    cache_load_factor: float = 0.2
    """fused_uvm_caching only: share of the rows kept in GPU memory, in (0, 1]."""

    def __post_init__(self) -> None:
        bad = [kind for kind in self.sharding_types if kind not in SHARDING_TYPES]
        if bad or not self.sharding_types:
            raise ValueError(f"sharding_types: {bad or 'empty'}; known: {', '.join(SHARDING_TYPES)}")
        bad = [kernel for kernel in self.compute_kernels if kernel not in KERNELS["cuda"]]
        if bad or not self.compute_kernels:
            raise ValueError(f"compute_kernels: {bad or 'empty'}; known: {', '.join(KERNELS['cuda'])}")
        if not (self.ids_per_step > 0 and 0 < self.cache_load_factor <= 1):
            raise ValueError("ids_per_step must be above 0 and cache_load_factor in (0, 1]")


ITEM_DATA = "item_data"
"""The frozen table of what is known of each item, and its collection; it lies as the table ``item`` does."""
LABEL = "label:"
"""How the names of tables of labels begin, which lie as the table ``item`` does."""
DEFAULTS = {
    "item": TableConstraint(),
    "profile": TableConstraint(sharding_types=("table_wise",), ids_per_step=256.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines a plan is for, as ``sharding/*.yaml`` describes them."""

    name: str
    compute_device: str
    """cpu or cuda."""
    nodes: int
    """Machines."""
    ranks_per_node: int
    """Processes, and on cuda GPUs, per machine."""
    hbm_gb: float
    """GPU memory per rank (GB of 2**30 bytes); 0 on cpu."""
    host_memory_gb: float
    """Host memory per rank (GB of 2**30 bytes)."""
    intra_node_gb_per_s: float
    """Bandwidth between ranks of one machine, each way, per rank (10**9 bytes per second)."""
    inter_node_gb_per_s: float
    """Bandwidth between machines, each way, per rank (10**9 bytes per second)."""
    reserved_fraction: float
    """Share of both memories kept for the dense model, activations and the loss, in [0, 1)."""
    constraints: Mapping[str, TableConstraint] = dataclasses.field(default_factory=dict)
    """By table name, or for a group: `item` (items and label spaces), `profile` (every other table)."""

    def __post_init__(self) -> None:
        if self.compute_device not in KERNELS:
            raise ValueError(f"compute_device: {self.compute_device!r}; known: {', '.join(KERNELS)}")
        bandwidths = ("intra_node_gb_per_s", "inter_node_gb_per_s")
        for key in ("nodes", "ranks_per_node", "host_memory_gb", *bandwidths):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key} must be above 0, got {getattr(self, key)}")
        if (self.compute_device == "cuda") != (self.hbm_gb > 0):
            raise ValueError(f"hbm_gb must be above 0 on cuda and 0 on cpu, got {self.hbm_gb}")
        if not 0 <= self.reserved_fraction < 1:
            raise ValueError(f"reserved_fraction must be in [0, 1), got {self.reserved_fraction}")
        for table, constraint in self.constraints.items():
            bad = [k for k in constraint.compute_kernels if k not in KERNELS[self.compute_device]]
            if bad:
                raise ValueError(f"constraints.{table}.compute_kernels: {bad} needs cuda")

    @property
    def world_size(self) -> int:
        """All ranks of the cluster."""
        return self.nodes * self.ranks_per_node

    def constraint(self, table: str) -> TableConstraint:
        """The constraint of ``table``: its own, its group's (item data and labels lie as items do), or the default."""
        group = "item" if table in ("item", ITEM_DATA) or table.startswith(LABEL) else "profile"
        return self.constraints.get(table) or self.constraints.get(group) or DEFAULTS[group]

    def usable(self) -> dict[str, int]:
        """Bytes a rank may give to tables, by memory (hbm, host), once ``reserved_fraction`` is taken off."""
        share = GIB * (1 - self.reserved_fraction)
        return {"hbm": int(self.hbm_gb * share), "host": int(self.host_memory_gb * share)}


T = TypeVar("T")
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda v: isinstance(v, str), "a string"),
    "int": (lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number"),
    "float": (
        lambda v: not isinstance(v, bool) and isinstance(v, int | float) and math.isfinite(v),
        "a number",
    ),
    "tuple[str, ...]": (
        lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v),
        "a list of names",
    ),
    "Mapping[str, TableConstraint]": (lambda v: isinstance(v, dict), "tables with their keys"),
}


def _number(value: object) -> object:
    """A number where YAML 1.1 reads text: ``1e2``, without a point and a sign."""
    if not isinstance(value, str) or not re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return value
    number = float(value)
    return int(number) if number.is_integer() else number


def _build(kind: type[T], raw: object, where: str) -> T:
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(raw, dict):
        raise UserError(f"{where}: expected keys {', '.join(fields)}, got {raw!r}")
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in fields:
            raise UserError(f"{where}: unknown key {key!r}; known: {', '.join(fields)}")
        wanted = str(fields[key].type)
        value = _number(value) if wanted in ("int", "float") else value
        check, meaning = _TYPES[wanted]
        if not check(value):
            raise UserError(f"{where}: {key}: expected {meaning}, got {value!r}")
        values[key] = tuple(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            values[key] = {t: _build(TableConstraint, v, f"{where}: {key}.{t}") for t, v in value.items()}
    absent = dataclasses.MISSING
    missing = [k for k, f in fields.items() if k not in values and f.default is f.default_factory is absent]
    if missing:
        raise UserError(f"{where}: missing key {missing[0]!r}")
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def load_cluster(path: str | Path) -> Cluster:
    """Read one ``sharding/*.yaml``. Raises UserError naming file and key if one is unknown, wrong or there twice."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        require_single_keys(Path(path))
    except OSError as error:
        raise UserError(f"{path}: cannot read the cluster file: {error.strerror}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot read the cluster file: {' '.join(str(error).split())}") from error
    return _build(Cluster, raw, str(path))


def default_cluster(device: str, world_size: int) -> Cluster:
    """The cluster this process runs on, as far as it can see: memory of this machine, TorchRec's bandwidths.

    ``device`` is cpu or cuda. Host memory is split evenly over the machine's ranks (LOCAL_WORLD_SIZE).
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cluster(
        name=f"this machine's {device}",
        compute_device=device,
        nodes=max(1, world_size // local),
        ranks_per_node=local,
        hbm_gb=torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
        if device == "cuda"
        else 0,
        host_memory_gb=host / GIB / local,
        intra_node_gb_per_s=600 if device == "cuda" else 10,
        inter_node_gb_per_s=12.5 if device == "cuda" else 1,
        reserved_fraction=0.3,
    )
