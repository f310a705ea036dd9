"""A prepared folder → a folder of tokens: sentences about its users' training clicks, prepared as click sequences.

``OUT/p5.json`` says what the tokens are, ``OUT/item_codes.npy`` what each item is called, ``OUT/tokens`` is a prepared
folder like any other (each sentence a user, each token an item), ``OUT/pretrain.yaml`` how it is trained on.
Shapes: E training clicks, N items, L codes of each.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ppr_dist.arrays import Int64Array
from ppr_dist.data.counter_random import integers
from ppr_dist.data.manifest import Manifest, load_manifest
from ppr_dist.data.prepare.config import PrepareConfig
from ppr_dist.data.prepare.folder import new_folder
from ppr_dist.data.prepare.pipeline import prepare
from ppr_dist.data.remote import address_of
from ppr_dist.data.stream.instances import Instances
from ppr_dist.data.stream.padding import ragged_arange
from ppr_dist.data.stream.user_stream import users_in_order
from ppr_dist.data.stream.users import Users
from ppr_dist.errors import UserError
from ppr_dist.p5 import item_codes
from ppr_dist.p5.templates import FAMILIES, Vocabulary, longest, render

if TYPE_CHECKING:
    from ppr_dist.p5.prepare import Arguments

MARKER = "p5.json"
HELD_OUT = 2
"""Last clicks of each user that no sentence names as its answer or before it: targets of test and validation."""
_TEMPLATE = 63  # what a draw is for, as a word of its key
AT_ONCE = 4_096
"""Users whose sentences are in memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What ``p5.json`` holds."""

    data: str
    """The prepared folder that the sentences are about."""
    fingerprint: str
    """Its manifest's."""
    ids: str
    families: list[str]
    history: int
    """Most recent clicks that a sentence names."""
    attributes: list[int]
    users: int
    sizes: list[int]

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(tuple(self.attributes), self.users, tuple(self.sizes))


def write_tokens(arguments: Arguments) -> tuple[Description, Manifest]:
    """Write ``arguments.out``; return what it is, and the manifest of its tokens.

    Raises :class:`UserError` where there is nothing to make sentences of; then nothing is left behind.
    """
    manifest = load_manifest(arguments.data)
    clicked_by, clicks = training_clicks(arguments.data, manifest)
    codes = _codes(arguments, clicked_by, clicks, manifest.items)
    attributes = [attribute.cardinality for attribute in manifest.attributes]
    if "direct" in arguments.families and not (attributes or arguments.user_tokens):
        raise UserError("--families direct: nothing is known of users; give --user-tokens, or data with profiles")
    description = Description(
        data=address_of(arguments.data) or str(arguments.data.resolve()),
        fingerprint=manifest.fingerprint,
        ids=arguments.ids,
        families=list(arguments.families),
        history=arguments.history,
        attributes=attributes,
        users=manifest.split("pretrain").users if arguments.user_tokens else 0,
        sizes=[int(size) + 1 for size in codes.max(axis=0)],
    )
    vocabulary = description.vocabulary
    with new_folder(arguments.out, overwrite=arguments.overwrite, marker=MARKER) as folder:
        _write_log(folder / "log.parquet", arguments, manifest, description, codes)
        # Tokens that no sentence has are in the vocabulary too; and a token's place in an item can be learnt.
        np.save(folder / "place.npy", np.eye(len(vocabulary.sizes) + 1, dtype=np.float32)[vocabulary.places()])
        # None of its "users" is warm: nothing of a sentence is held out.
        length = longest(description.families, vocabulary, description.history)
        config = PrepareConfig(seed=arguments.seed, cold_threshold=length + 1, tune_test_fraction=0.0)
        log, place = folder / "log.parquet", folder / "place.npy"
        tokens = prepare(str(log), None, folder / "tokens", config, item_features={"place": str(place)})
        log.unlink()
        place.unlink()
        np.save(folder / "item_codes.npy", codes)
        (folder / "pretrain.yaml").write_text(yaml.safe_dump(_training(length, codes.shape[1]), sort_keys=False))
        (folder / MARKER).write_text(json.dumps(dataclasses.asdict(description), indent=1) + "\n")
    return description, tokens


def read_description(folder: Path) -> tuple[Description, Int64Array]:
    """What ``folder`` holds, and the codes of items [N, L]. Raises :class:`UserError` where it is no such folder."""
    try:
        return Description(**json.loads((folder / MARKER).read_text())), np.load(folder / "item_codes.npy")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: not written by ppr_dist.p5.prepare ({error})") from error


def training_clicks(data: Path, manifest: Manifest) -> tuple[Int64Array, Int64Array]:
    """User and item of each click but the held-out ones, user after user, int64 [E] each."""
    found = [np.zeros((2, 0), np.int64)]
    for users in _pretrain(data, manifest):
        user, nth = ragged_arange(np.maximum(users.lengths - HELD_OUT, 0))
        found.append(np.stack([users.index[user], users.items[users.offsets[user] + nth]]))
    clicked_by, clicks = np.concatenate(found, axis=1)
    if not len(clicks):
        raise UserError(f"{data}: no click to train on: no user has more than {HELD_OUT}")
    return clicked_by, clicks


def _codes(arguments: Arguments, clicked_by: Int64Array, clicks: Int64Array, items: int) -> Int64Array:
    values, seed = arguments.code_values, arguments.seed
    if arguments.ids == "collaborative":
        return item_codes.collaborative_codes(clicked_by, clicks, items, values, seed)
    if arguments.ids == "random":
        return item_codes.digits(item_codes.random_numbers(items, seed), values)
    return item_codes.digits(item_codes.numbers_by_first_click(clicks, items, seed), values)


def _pretrain(data: Path, manifest: Manifest) -> Iterator[Users]:
    return users_in_order(data, manifest, "pretrain", rank=0, world_size=1, at_once=AT_ONCE)[1]


def _write_log(
    path: Path, arguments: Arguments, manifest: Manifest, description: Description, codes: Int64Array
) -> None:
    """Write the sentences as a click log."""
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("position", pa.int64())])
    sentences = 0
    with pq.ParquetWriter(path, schema) as writer:
        for users in _pretrain(arguments.data, manifest):
            for family in description.families:
                for template, instances in drawn(family, users, arguments.seed):
                    answer, of = codes[instances.targets], description
                    tokens, lengths = render(template, instances, codes, of.vocabulary, of.history, answer)
                    row, position = ragged_arange(lengths)
                    columns = {"user_id": sentences + row, "item_id": tokens, "position": position}
                    writer.write_table(pa.table(columns, schema))
                    sentences += len(lengths)


def drawn(family: str, users: Users, seed: int) -> Iterator[tuple[str, Instances]]:
    """For each template of a family the training clicks that it asks for, drawn by hash.

    The first click has no history, so that only the family ``direct`` asks for it.
    """
    first = 1 if family == "sequential" else 0
    user, nth = ragged_arange(np.maximum(users.lengths - HELD_OUT - first, 0))
    templates = FAMILIES[family]
    which = integers(len(templates), seed, _TEMPLATE, list(FAMILIES).index(family), users.index[user], nth)
    for number, template in enumerate(templates):
        mine = which == number
        yield template, Instances(users, user[mine], nth[mine] + first)


def _training(length: int, levels: int) -> dict[str, object]:
    """What training on sentences needs, as YAML for ``pretrain --config``."""
    train = {"objectives": ["full_softmax"], "last_clicks": levels}
    return {"split": ["tune-train"], "model": {"max_length": length - 1}, "train": train}
