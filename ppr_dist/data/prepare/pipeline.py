"""Prepare a data set: read, check, split, index, write. The stages in order; the work is in other modules."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from ppr_dist.data.manifest import CODES, MANIFEST, TOKENS, VECTOR, Kind, Manifest, item_data_file
from ppr_dist.data.prepare import attributes as attribute_values
from ppr_dist.data.prepare import labels as user_labels
from ppr_dist.data.prepare import logs, shard_writer, splits
from ppr_dist.data.prepare.clicks import Clicks
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.content import ids_sha256
from ppr_dist.data.prepare.folder import new_folder
from ppr_dist.data.prepare.item_codes import write_codes
from ppr_dist.data.prepare.item_features import ItemFeatures, open_features
from ppr_dist.data.prepare.item_tokens import open_texts, write_tokens
from ppr_dist.data.prepare.sources import has_table, open_source, scalars, work_database
from ppr_dist.data.prepare.times import all_have_times
from ppr_dist.data.prepare.user_vectors import RawVectors
from ppr_dist.data.stream.item_shares import write_item_shares
from ppr_dist.errors import UserError, warn

ARROW_IDS = {"int64": pa.int64(), "string": pa.string()}
STAGES = 7
MANY_DUPLICATES = 0.01
"""Share of exact duplicates above which prepare warns: a double click is rare, a part delivered twice is not."""


def prepare(
    interactions: str,
    users: str | None,
    out: Path,
    config: PrepareConfig,
    *,
    items: str | None = None,
    item_features: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    user_vectors: str | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Write the prepared data set ``out`` and return its manifest; ``users`` None = no attributes.

    ``items``: texts of items; ``item_features``: files of vectors of items, ``labels``: of labels of users, by name;
    ``user_vectors``: one of vectors of users.

    Raises :class:`UserError` on bad input, a full disk or too little memory; then nothing is left behind.
    """
    of_items, of_users = dict(item_features or {}), dict(sorted((labels or {}).items()))
    for path in (interactions, users, items, user_vectors, *of_items.values(), *of_users.values()):
        if path is not None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(out)):
            raise UserError(f"{path}: lies inside --out {out}, which would be replaced")
    with (
        new_folder(out, overwrite=overwrite, marker=MANIFEST) as folder,
        work_database(folder, config.temp_dir, config.memory_limit) as con,
    ):
        # delay: a refusal of the input comes within the first second and is then the only line.
        with tqdm(total=STAGES, desc="prepare", unit="stage", delay=1.0) as bar:

            def stage(name: str) -> None:
                bar.set_description(f"prepare: {name}", refresh=False)
                bar.update()

            manifest, features, vectors = _tables(
                con, interactions, users, items, of_items, of_users, user_vectors, config, stage
            )
        manifest = _files(con, folder, manifest, features, vectors, config).sealed()
        manifest.save(folder)
    return manifest


def _tables(
    con: duckdb.DuckDBPyConnection,
    interactions: str,
    users: str | None,
    items: str | None,
    item_features: dict[str, str],
    labels: dict[str, str],
    user_vectors: str | None,
    config: PrepareConfig,
    stage: splits.Stage,
) -> tuple[Manifest, list[ItemFeatures], RawVectors | None]:
    """Run every stage in DuckDB; return a manifest that lacks what describes files; vectors of items, and of users."""
    log = open_source(con, interactions)
    profiles = open_source(con, users) if users is not None else None
    spaces = {name: open_source(con, path) for name, path in labels.items()}
    stage("reading the log")
    item_type = logs.id_types(con, log, config.item_column)[0]
    user_types = logs.id_types(con, log, config.user_column)
    for source in (*([profiles] if profiles else []), *spaces.values()):
        user_types = logs.shared_id_types(log, user_types, source, logs.id_types(con, source, config.user_column))
    user_type = user_types[0]
    clicks = logs.load_interactions(con, log, config, user_type, item_type)
    _warn_of_clicks(clicks, interactions, config)
    features = [open_features(con, name, p, config.item_column, item_type) for name, p in item_features.items()]
    unknown = set(config.code_features or ()) - set(item_features)
    if unknown or (config.code_levels and not item_features):
        raise UserError(f"code_features: no --item-features.{min(unknown or {'NAME'})} is given")
    if items is not None:
        open_texts(con, items, config, item_type)
    elif config.text_column_names():
        raise UserError("text_columns are columns of the items: give --items")
    stage("reading the profiles")
    kinds: dict[str, Kind] = {}
    if profiles is not None:
        kinds = attribute_values.load(con, profiles, config, user_type)
    elif config.attribute_names() or config.buckets:
        raise UserError("attributes and buckets are columns of the profiles: give --users")
    else:
        con.execute("CREATE TABLE raw_profile AS SELECT user_id FROM log LIMIT 0")
    label_types = user_labels.load(con, spaces, config.user_column, user_type, kinds)
    if VECTOR in kinds and user_vectors is not None:
        raise UserError(f"{users}: column {VECTOR!r} cannot be an attribute beside --user-vectors; rename it")
    vectors = RawVectors(con, user_vectors, config.user_column, user_type) if user_vectors is not None else None
    stage("splitting users")
    lost = splits.drop_rare_items(con, config, interactions)
    if lost:
        warn(f"{interactions}: min_item_count {config.min_item_count} leaves {lost:,} users without a click, left out")
    splits.split_users(con, config)
    if config.hide_items:
        splits.hide_items(con, config)
    times = all_have_times(con, "log", clicks.time_column, interactions)
    if scalars(con, "SELECT count(*) FROM users WHERE split > 0") == (0,):
        warn(
            f"{interactions}: every user has at least {config.cold_threshold} clicks, so there are no cold users to"
            " tune on; --simulate-cold 0.2 makes cold users of a fifth of them"
        )
    attributes = attribute_values.encode(con, kinds, config, users or "")
    known = [each.ids for each in features]
    known += [f"SELECT item_id FROM {table}" for table in ("hidden", "texts") if has_table(con, table)]
    splits.build(con, config, len(attributes), times, known, stage)
    con.execute("CREATE TABLE label_values(space VARCHAR, label_index BIGINT, label VARCHAR)")
    manifest = Manifest(
        items=scalars(con, "SELECT count(*) FROM items")[0],
        item_id_type=item_type,
        user_id_type=user_type,
        cold_threshold=config.cold_threshold,
        attributes=attributes,
        times=times,
        splits={},
        tables={},
        settings=config.settings(clicks.order_column, clicks.time_column) | {"attributes": list(kinds)},
        clicks=dataclasses.asdict(clicks.counts),
        labels=tuple(user_labels.number(con, name, labels[name], kind, config) for name, kind in label_types.items()),
        user_vectors=None if vectors is None else vectors.index("user_index"),
    )
    return manifest, features, vectors


def _warn_of_clicks(clicks: Clicks, path: str, config: PrepareConfig) -> None:
    """Say what in a log's order is likely not meant."""
    counts = clicks.counts
    if counts.duplicate > MANY_DUPLICATES * counts.read and not config.deduplicate:
        warn(
            f"{path}: {counts.duplicate / counts.read:.1%} of the rows repeat another one exactly"
            " (a log delivered twice?); --deduplicate exact leaves them out"
        )
    if counts.backward:
        warn(
            f"{path}: ordered by {clicks.order_column!r}, {counts.backward / counts.read:.2%} of the clicks have an"
            f" earlier {clicks.time_column!r} than the user's click before"
        )


def _files(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    manifest: Manifest,
    features: list[ItemFeatures],
    vectors: RawVectors | None,
    config: PrepareConfig,
) -> Manifest:
    """Write shards, tables and item data; return ``manifest`` with what describes them."""
    written = {}
    (total,) = scalars(con, "SELECT count(*) FROM people")
    with tqdm(total=total, desc="prepare: writing shards", unit="user", unit_scale=True, delay=1.0) as bar:
        for number, name in enumerate(splits.SPLITS):
            written[name] = shard_writer.write_split(
                con,
                number,
                folder / name,
                manifest.attributes,
                manifest.times,
                manifest.labels,
                config,
                bar.update,
                vectors,
            )
    integer, text = pa.int64(), pa.string()
    item_schema = pa.schema(
        [
            ("item_index", integer),
            ("item_id", ARROW_IDS[manifest.item_id_type]),
            ("train_count", integer),
            ("tune_count", integer),
        ]
    )
    user_schema = pa.schema([("user_index", integer), ("user_id", ARROW_IDS[manifest.user_id_type]), ("split", text)])
    value_schema = pa.schema([("attribute", text), ("value_index", integer), ("value", text)])
    split = (
        "CASE split " + " ".join(f"WHEN {i} THEN '{name}'" for i, name in enumerate(splits.SPLITS)) + " END AS split"
    )
    tables = {
        "items.parquet": (item_schema, "item_index, item_id, train_count, tune_count", "items", "item_index"),
        "users.parquet": (user_schema, f"user_index, user_id, {split}", "people", "user_index"),
        "attributes.parquet": (value_schema, "attribute, value_index, value", "attribute_values", "rowid"),
    }
    if manifest.labels:
        label_schema = pa.schema([("space", text), ("label_index", integer), ("label", text)])
        tables["labels.parquet"] = (label_schema, "space, label_index, label", "label_values", "rowid")
    hashes = {}
    for name, (schema, columns, table, key) in tables.items():
        parts = shard_writer.write_table(con, columns, table, key, schema, folder / name)
        hashes[name] = ids_sha256(part.column(1) for part in parts)  # the first column is the index: 0, 1, …
    write_item_shares(folder)
    for name in {"attributes.parquet", "labels.parquet"} & hashes.keys():
        del hashes[name]  # each attribute has its own, and each label space
    item_data = {each.name: each.write(con, folder, manifest.items) for each in features}
    if config.code_levels:
        arrays = [np.load(folder / item_data_file(name), mmap_mode="r") for name in config.code_features or item_data]
        item_data[CODES] = write_codes(folder, arrays, config.code_levels, config.code_values, config.seed)
    if has_table(con, "texts"):
        item_data[TOKENS] = write_tokens(con, folder, manifest.items, config.text_length)
    return dataclasses.replace(manifest, splits=written, tables=hashes, item_data=item_data)
