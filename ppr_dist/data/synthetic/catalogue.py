"""A synthetic catalogue in which history, order and profile all carry signal.

``python -m ppr_dist.data.synthetic --out FOLDER --users 20000 --items 20000`` writes interactions.parquet
(user_id, item_id, timestamp) and users.parquet (user_id, age in years, gender, city; each attribute null for
a share of the users).

The model. Item i has topic i mod K and rank r = i div K in it (0 = the most popular). Topic k has n_k items.

- Popularity in a topic: Zipf, P(r) ∝ ∫_{r+1}^{r+2} x^−s dx, sampled by inverting the integral (no table).
- Preference of user u over topics:
  P(z | u) = w Σ_a c_a [z = T_a(value_a(u))] + (1 − w) / 2 · Σ_{j<2} [z = Q_j(u)]
  with w = ``profile_weight``, c = (0.5 city, 0.3 decade of age, 0.2 gender); T maps each attribute value
  to one topic, Q each user to two private ones, by hash.
- Clicks: the first item is drawn from the preference: z ~ P(z | u), then r by popularity. Each later item is
  with probability ``follow`` the neighbour of the previous one, rank (r + 1) mod n_k in the same topic;
  with probability ``stay`` another item of the previous one's topic, by popularity;
  else drawn from the preference.
- Length: 2 … 9 uniform for a share ``cold_fraction`` of the users; for the others
  10 + floor((max_clicks − 9) x²), x uniform in [0, 1).
- Time: the first click lies in the year after 2020-01-01, each later one 1 s … 1 day after the one before.

A value hidden as null still steers the clicks. Every number is a hash of (seed, purpose, user, click): any
size is written in chunks of users with bounded memory, and the same options give the same bytes.
Shapes: U users of a chunk, C clicks of a chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ppr_dist import cli, options
from ppr_dist.arrays import Int64Array
from ppr_dist.data.counter_random import integers, uniform
from ppr_dist.data.prepare.folder import new_folder
from ppr_dist.errors import UserError

CELLS = 1 << 22
"""Users times ``max_clicks`` generated at a time (about 0.3 GB of memory) and written as one row group."""
CITIES = 20
GENDERS = ("female", "male")
SHARES = (0.5, 0.3, 0.2)
"""Weights c of city, decade of age and gender in the preference."""
EPOCH = 1_577_836_800
"""2020-01-01 in Unix seconds."""
# One number per purpose keeps the hashes apart; the values only have to differ.
LENGTH, CITY, AGE, GENDER, HIDDEN, TASTE, START, GAP, KIND, TOPIC, RANK, TABLE = range(12)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Size and strength of the synthetic catalogue; raises :class:`UserError` on a value out of range."""

    users: int = 20_000
    """Users."""
    items: int = 20_000
    """Items in the catalogue (not each is clicked)."""
    seed: int = 0
    """Seed of everything."""
    cold_fraction: float = 0.3
    """Share of the users with 2 to 9 clicks."""
    max_clicks: int = 60
    """Most clicks of a warm user, at least 10."""
    topics: int = 32
    """Latent topics K; no more than items."""
    zipf: float = 1.0
    """Exponent s of popularity within a topic."""
    profile_weight: float = 0.8
    """Share w of the preference that the profile decides; the rest is private taste."""
    follow: float = 0.35
    """Probability that a click is the neighbour of the one before."""
    stay: float = 0.3
    """Probability that a click is another item of the same topic."""
    null_share: float = 0.1
    """Share of the users for whom an attribute is unknown, per attribute."""

    def __post_init__(self) -> None:
        for name, low in (
            ("users", 1),
            ("items", 1),
            ("seed", 0),
            ("max_clicks", 10),
            ("topics", 1),
            ("zipf", 0),
        ):
            if getattr(self, name) < low:
                raise UserError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if self.topics > self.items:
            raise UserError(f"topics must be no more than items, got {self.topics} and {self.items}")
        shares = {name: getattr(self, name) for name in ("cold_fraction", "profile_weight", "null_share")}
        shares |= {"follow": self.follow, "stay": self.stay, "follow + stay": self.follow + self.stay}
        for name, value in shares.items():
            if not 0.0 <= value <= 1.0:
                raise UserError(f"{name} must lie between 0 and 1, got {value}")


def generate(config: SyntheticConfig, out: Path, *, overwrite: bool = False) -> int:
    """Write both files to the folder ``out``; return the number of clicks."""
    interaction_schema = pa.schema([(name, pa.int64()) for name in ("user_id", "item_id", "timestamp")])
    user_schema = pa.schema(
        [("user_id", pa.int64()), ("age", pa.int64()), ("gender", pa.string()), ("city", pa.string())]
    )
    written = 0
    with (
        new_folder(out, overwrite=overwrite, marker="interactions.parquet") as folder,
        pq.ParquetWriter(folder / "interactions.parquet", interaction_schema) as clicks,
        pq.ParquetWriter(folder / "users.parquet", user_schema) as profiles,
        tqdm(total=config.users, desc="synthetic", unit="user", unit_scale=True, delay=1.0) as bar,
    ):
        chunk = max(1, CELLS // config.max_clicks)
        for low in range(0, config.users, chunk):
            user = np.arange(low, min(low + chunk, config.users), dtype=np.int64)
            profiles.write_table(pa.table(_profiles(config, user), schema=user_schema))
            count = lengths(config, user)
            # [U, longest], step by step; then cut to the users' lengths: user after user, oldest first.
            item = np.stack(list(_items(config, user, int(count.max()))), axis=1)
            steps = np.arange(item.shape[1])
            gap = integers(86_400, config.seed, GAP, user[:, None], steps) + 1
            gap[:, 0] = EPOCH + integers(365 * 86_400, config.seed, START, user)
            real = steps < count[:, None]
            columns = [np.repeat(user, count), item[real], np.cumsum(gap, axis=1)[real]]  # each [C]
            clicks.write_table(pa.table(columns, schema=interaction_schema))
            written += len(columns[0])
            bar.update(len(user))
    return written


def lengths(config: SyntheticConfig, user: Int64Array) -> Int64Array:
    """Return the number of clicks of each user, [U]."""
    x = uniform(config.seed, LENGTH, user, 1)
    warm = 10 + np.floor((config.max_clicks - 9) * x * x).astype(np.int64)
    cold = 2 + integers(8, config.seed, LENGTH, user, 2)
    return np.where(uniform(config.seed, LENGTH, user, 0) < config.cold_fraction, cold, warm)


def _latent(config: SyntheticConfig, user: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return city index, age in years (18 … 77) and gender index, each [U], before any is hidden."""
    return (
        integers(CITIES, config.seed, CITY, user),
        18 + integers(60, config.seed, AGE, user),
        integers(len(GENDERS), config.seed, GENDER, user),
    )


def _profiles(config: SyntheticConfig, user: Int64Array) -> list[pa.Array]:
    city, age, gender = _latent(config, user)
    hidden = [uniform(config.seed, HIDDEN, user, purpose) < config.null_share for purpose in range(3)]
    names = np.array([f"city-{k:02d}" for k in range(CITIES)])
    return [
        pa.array(user),
        pa.array(age, mask=hidden[0]),
        pa.array(np.array(GENDERS)[gender], mask=hidden[1]),
        pa.array(names[city], mask=hidden[2]),
    ]


def _items(config: SyntheticConfig, user: Int64Array, longest: int) -> Iterator[Int64Array]:
    """Yield the users' first, second, … item, each [U]; sequences are cut to their lengths by the caller."""
    city, age, gender = _latent(config, user)
    values = (city, (age - 18) // 10, gender)
    topic = _topic(config, user, values, 0)
    rank = _rank(config, user, topic, 0)
    yield rank * config.topics + topic
    for step in range(1, longest):
        kind = uniform(config.seed, KIND, user, step)
        follow, stay = kind < config.follow, kind < config.follow + config.stay
        topic = np.where(stay, topic, _topic(config, user, values, step))  # follow implies stay
        rank = np.where(follow, (rank + 1) % _topic_size(config, topic), _rank(config, user, topic, step))
        yield rank * config.topics + topic


def _topic(
    config: SyntheticConfig, user: Int64Array, values: tuple[Int64Array, Int64Array, Int64Array], step: int
) -> Int64Array:
    """Draw a topic from P(z | u), [U]."""
    x = uniform(config.seed, TOPIC, user, step)
    private = integers(2, config.seed, TOPIC, user, step, 1)
    topic = integers(config.topics, config.seed, TASTE, user, private)
    # The inverse CDF from its upper end down: each attribute overwrites what lies below its bound.
    bounds = config.profile_weight * np.cumsum(SHARES)
    for attribute in reversed(range(len(values))):
        preferred = _preferred(config, attribute, values[attribute])
        topic = np.where(x < bounds[attribute], preferred, topic)
    return topic


def _preferred(config: SyntheticConfig, attribute: int, value: Int64Array) -> Int64Array:
    """Return T_a(value), the topic that a value of an attribute prefers, [U]."""
    return integers(config.topics, config.seed, TABLE, attribute, value)


def _rank(config: SyntheticConfig, user: Int64Array, topic: Int64Array, step: int) -> Int64Array:
    """Draw a popularity rank within ``topic``, [U]."""
    size = _topic_size(config, topic)
    u, s = uniform(config.seed, RANK, user, step), config.zipf
    if abs(s - 1.0) < 1e-9:
        x = np.exp(u * np.log1p(size))
    else:
        x = (1.0 + u * ((size + 1.0) ** (1.0 - s) - 1.0)) ** (1.0 / (1.0 - s))
    return np.clip(x.astype(np.int64) - 1, 0, size - 1)  # rounding may reach the end of the range


def _topic_size(config: SyntheticConfig, topic: Int64Array) -> Int64Array:
    return (config.items - topic + config.topics - 1) // config.topics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where to write; the rest is :class:`SyntheticConfig`."""

    out: str
    """Folder to write."""
    overwrite: bool = False
    """Replace a folder this command wrote."""


def main(argv: list[str] | None = None) -> None:
    """Parse ``argv``, write the files, and say how many rows."""
    about = "A synthetic click log with profiles."
    (arguments, config), _ = options.parse(
        "ppr_dist.data.synthetic", argv, [Arguments, SyntheticConfig], description=about
    )
    clicks = generate(config, Path(arguments.out), overwrite=arguments.overwrite)
    print(f"{arguments.out}: {config.users:,} users, {config.items:,} items, {clicks:,} clicks")


if __name__ == "__main__":
    cli.run(main)
