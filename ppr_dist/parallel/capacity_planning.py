"""Capacity planning: do the tables fit, what a step costs, and what would help where they do not."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config, Tables
from ppr_dist.data.manifest import CODES, TOKENS, ItemData, LabelSpace, load_manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.errors import UserError, choose
from ppr_dist.parallel.cluster import Cluster, load_cluster
from ppr_dist.parallel.planning import DoesNotFitError, make_plan
from ppr_dist.parallel.step_cost import step_cost, typical
from ppr_dist.parallel.tables import SparseModule, TableSizes, make_sharders, say_plan
from ppr_dist.runs import catalogue_for, table_sizes
from ppr_dist.tuning import TUNING_METHODS

if TYPE_CHECKING:
    from ppr_dist.plan import Arguments

MOST_RANKS = 4096  # where the search for enough ranks gives up


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """Tables on a cluster."""

    cluster: Cluster
    world_size: int
    catalogue: Catalogue
    sizes: TableSizes
    tables: Tables

    def plan(self) -> tuple[dict[str, Any], DoesNotFitError | None]:
        """Return ``describe_plan`` of the plan that training would make, or of the leanest and why it does not fit."""
        module, fault = SparseModule(self.sizes, self.tables.precision), None
        try:
            plan = make_plan(module, self.cluster, self.world_size, make_sharders(self.tables))
        except DoesNotFitError as error:
            plan, fault = error.plan, error
        return say_plan(plan, module, self.tables, self.cluster, self.world_size), fault

    def with_item(self, **changes: Any) -> Scenario:
        """The same with the item table's constraint changed."""
        item = dataclasses.replace(self.cluster.constraint("item"), **changes)
        constraints = {**self.cluster.constraints, "item": item}
        return dataclasses.replace(self, cluster=dataclasses.replace(self.cluster, constraints=constraints))


def changes(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """What might make it fit, cheapest first: other cuts, half the bits, slower memory, more machines."""
    own = scenario.cluster.constraint("item").sharding_types
    for kind in ("row_wise", "column_wise"):
        if kind not in own:
            yield f"item {kind}", scenario.with_item(sharding_types=(kind,))
    half = dataclasses.replace(scenario, tables=dataclasses.replace(scenario.tables, precision="float16"))
    yield "half-precision item table (tables.precision float16)", half
    if scenario.cluster.compute_device == "cuda":
        cached = {"compute_kernels": ("fused_uvm_caching",)}
        yield (
            "item rows in host memory, hot ones cached on the GPU",
            scenario.with_item(**cached),
        )
        yield "both: half precision and host memory", half.with_item(**cached)
    enough = more_ranks(scenario)
    yield f"{enough.world_size} ranks", enough


def more_ranks(scenario: Scenario) -> Scenario:
    """The same on the fewest ranks, in whole machines, that fit; on MOST_RANKS where none do."""
    step = min(scenario.cluster.ranks_per_node, scenario.world_size)

    def on(machines: int) -> Scenario:
        return dataclasses.replace(scenario, world_size=machines * step)

    low = high = scenario.world_size // step
    while high * step < MOST_RANKS and on(high).plan()[1]:
        low, high = high, min(high * 2, MOST_RANKS // step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if on(middle).plan()[1] else (low, middle)
    return on(high)


def show(scenario: Scenario, described: dict[str, Any]) -> Iterator[str]:
    """The plan as lines for a reader."""
    yield (
        f"{scenario.sizes.items:,} items x {scenario.sizes.dim}, {scenario.tables.optimizer}, "
        f"on {scenario.world_size} rank(s) of {scenario.cluster.name!r}"
    )
    yield ""
    width = max(16, *(len(table["name"]) for table in described["tables"]))
    head = f"{'table':{width}}{'rows':>15}{'columns':>9}  {'dtype':7}{'sharding':13}{'kernel':19}{'shards':>6}"
    yield f"{head}  largest shard"
    for table in described["tables"]:
        rows, columns = max((shard[1], shard[2]) for shard in table["shards"])
        yield (
            f"{table['name']:{width}}{table['rows']:>15,}{table['columns']:>9}  {table['dtype']:7}"
            f"{table['sharding_type']:13}{table['compute_kernel']:19}{len(table['shards']):>6}"
            f"  {rows:,} x {columns}"
        )
    yield ""
    yield f"{'bytes per rank':22}{'largest':>18}{'mean':>18}"
    for memory in ("hbm", "host"):
        if not described["largest"][memory]:
            continue
        fullest = max(described["ranks"], key=lambda rank: rank[memory]["total"])[memory]
        for part, count in fullest.items():
            mean = sum(rank[memory][part] for rank in described["ranks"]) / len(described["ranks"])
            if count:
                yield f"{memory + ' ' + part:22}{count:>18,}{mean:>18,.0f}"
        yield f"{memory + ' usable':22}{described['usable_bytes_per_rank'][memory]:>18,}"
    yield from (f"note: {note}" for note in described["notes"])
    yield ""


def step_by_part(arguments: Arguments, config: Config, scenario: Scenario) -> dict[str, dict[str, dict[str, int]]]:
    """:func:`step_cost` as planned, and on twice the ranks with twice the users: what grows between is by the ranks."""
    history = arguments.history
    if history is None and arguments.data:
        split = load_manifest(arguments.data).split("tune-train" if arguments.method else "pretrain")
        history = split.events / max(split.users, 1)
    found = {}
    for name, times in (("planned", 1), ("twice", 2)):
        train = dataclasses.replace(config.train, global_batch_size=config.train.global_batch_size * times)
        grown, ranks = dataclasses.replace(config, train=train), scenario.world_size * times
        model = (grown, scenario.catalogue, arguments.method)
        shape = typical(*model, ranks, history or config.model.max_length + 1)
        found[name] = step_cost(*model, shape, scenario.cluster.compute_device)
    return found


def show_step(step: dict[str, dict[str, dict[str, int]]], world_size: int, batch: int) -> Iterator[str]:
    """The cost of a step as lines for a reader."""
    yield f"a step of {batch:,} users: what a rank receives and computes, and with twice the ranks and users"
    yield f"{'':22}{'bytes':>16}{f'on {2 * world_size} ranks':>18}{'FLOPs':>14}{f'on {2 * world_size} ranks':>18}"
    planned, twice = step["planned"], step["twice"]
    for part in planned:
        (one, one_flops), (two, two_flops) = (tuple(cost[part].values()) for cost in (planned, twice))
        if one or two or one_flops:
            yield f"{part:22}{one:>16,}{two:>18,}{one_flops:>14.3g}{two_flops:>18.3g}"
    yield ""


def report(arguments: Arguments, config: Config) -> tuple[dict[str, Any], list[str], DoesNotFitError | None]:
    """The plan as plain data and as lines for a reader, and why it does not fit.

    Raises :class:`UserError` where the arguments do not make one scenario.
    """
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    scenario = scenario_of(arguments, config)
    described, fault = scenario.plan()
    result: dict[str, Any] = {"fits": fault is None, "items": scenario.sizes.items, "dim": scenario.sizes.dim}
    step = step_by_part(arguments, config, scenario)
    lines = [*show(scenario, described), *show_step(step, scenario.world_size, config.train.global_batch_size)]
    if fault is None:
        lines.append("It fits.")
    else:
        result |= {"why": str(fault), "memory": fault.memory, "short_bytes": fault.short_bytes}
        tried = [{"change": name, **_outcome(change)} for name, change in changes(scenario)]
        cheapest = next((each["change"] for each in tried if each["fits"]), None)
        result |= {"changes": tried, "cheapest": cheapest}
        for each in tried:
            use = ", ".join(f"{count:,} bytes {memory}" for memory, count in each["largest"].items() if count)
            fits = "fits        " if each["fits"] else "does not fit"
            lines.append(f"{fits}  {each['change']}: {use} on the fullest rank")
        lines.append(f"cheapest change that makes it fit: {cheapest or 'none of those tried'}")
    return {**result, **described, "step": step}, lines, fault


def _outcome(scenario: Scenario) -> dict[str, Any]:
    outcome, fault = scenario.plan()
    return {"fits": fault is None, "largest": {memory: outcome["largest"][memory] for memory in ("hbm", "host")}}


def scenario_of(arguments: Arguments, config: Config) -> Scenario:
    """Raises :class:`UserError` where the arguments do not make one scenario."""
    path = arguments.cluster or config.tables.cluster
    if path is None:
        raise UserError("name the cluster: --cluster sharding/gpu-32.yaml")
    cluster = load_cluster(path)
    items, attributes, user_vectors = arguments.items, arguments.attributes, 0
    item_data = {name: _planned(name, size) for name, size in arguments.item_data.items()}
    labels = tuple(
        LabelSpace(name=name, id_type="int64", size=size, values="", users=0, most=1)
        for name, size in arguments.label_spaces.items()
    )
    if arguments.data:
        if items is not None or attributes or arguments.item_data or labels:
            raise UserError("--data says it itself; leave --items, --attributes, --item-data and --label-spaces out")
        manifest = load_manifest(arguments.data)
        items, attributes = manifest.items, {a.name: a.cardinality for a in manifest.attributes}
        item_data, labels = manifest.item_data, manifest.labels
        user_vectors = manifest.user_vectors.columns if manifest.user_vectors else 0
    if items is None:
        raise UserError("how many items? --items 1e9, or --data FOLDER")
    if items < 1 or items != int(items) or min([*attributes.values(), *arguments.item_data.values()], default=1) < 1:
        raise UserError("--items, --attributes and --item-data must be whole numbers of at least 1")
    if config.model.dim % 4 or config.profiles.attribute_dim % 4:
        raise UserError("--dim and --profiles.attribute_dim must be multiples of 4")
    world_size = cluster.world_size if arguments.world_size is None else arguments.world_size
    if cluster.compute_device == "cuda" and world_size > cluster.world_size:
        have = f"{cluster.nodes} machine(s) of {cluster.ranks_per_node}"
        raise UserError(f"--world-size {world_size}: {path} has {cluster.world_size} GPUs ({have}); raise its nodes")
    if arguments.method is not None:
        choose("--method", arguments.method, TUNING_METHODS)
    catalogue = catalogue_for(config, int(items), attributes, item_data, labels, user_vectors)
    return Scenario(
        cluster=cluster,
        world_size=world_size,
        catalogue=catalogue,
        sizes=table_sizes(config, catalogue, arguments.method),
        tables=config.tables,
    )


def _planned(name: str, size: int) -> ItemData:
    """What ``prepare`` would make with its defaults."""
    usual = PrepareConfig()
    values = {CODES: usual.code_values, TOKENS: usual.vocabulary}.get(name, 0)
    kind: Literal["features", "codes", "tokens"] = name if name in (CODES, TOKENS) else "features"  # type: ignore[assignment]
    return ItemData(kind=kind, columns=2 * size if name == TOKENS else size, known=0, sha256="", values=values)
