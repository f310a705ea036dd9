"""Expand a real click log with profiles to any size, keeping the shape of its statistics.

``python -m ppr_dist.data.synthetic.fractal --interactions I.parquet --users U.parquet --out FOLDER --factor-users 16
--factor-items 32`` writes interactions.parquet (user_id, item_id, position) and users.parquet (user_id and the
attributes). It is the fractal expansion of Belletti et al., "Scalable Realistic Recommendation Datasets through
Fractal Expansions" (2019, arXiv 1901.08910), in its randomised form: R̃ = P ⊗ R, thinned.

Formulas. R [U, I] = the log, R_uv = clicks of user u on item v; n_u and c_v its row and column sums, N its sum.

- Reduced matrix (the paper's §4, algorithm 2). R ≈ X Σ Yᵀ, its first k = min(a, b) singular triplets. Users sorted by
  n_u are cut into a equal groups, items sorted by c_v into b; X̂ [a, k] and Ŷ [b, k] are the group means of X and Y,
  each replaced by the nearest matrix with orthonormal columns. R̂ = X̂ Σ Ŷᵀ has exactly the singular values Σ.
- Probabilities. P = s · max(R̂, 0), with s so that Σ_ij P_ij = a · ``activity``; the largest P_ij may be 1.
- Expansion. Each click of u on v appears for user (i, u) on item (j, v) with probability P_ij, independently:
  E[R̃] = P ⊗ R. user_id = i · U + u, item_id = j · I + v, where u and v count the raw ids in increasing order.
- Order. User (i, u) walks through u's clicks from the oldest; the copies of one click, on several (j, v), stand
  together in random order. ``position`` counts from 0. With ``max_clicks`` the later clicks are left out.
- Profiles. User (i, u) has all attributes of u, nulls too; a user of the log without a profile has none. A user who
  is left without a click stays in users.parquet.

Departures from the paper: sorting before grouping gives P a head and a tail; negative R̂_ij are set to 0 rather than
shifting all of R̂ into [0, 1], which would add a constant and drown all but one singular value (MovieLens-1M, 20 × 300:
σ₂/σ₁ is 0.34 in R, 0.26 in P, 0.10 shifted); blocks are not shuffled, so that a row of blocks is one person.

Kept, in expectation (figures: MovieLens-1M, 20 × 300):
- popularity: E[clicks of (j, v)] = c_v w_j, w_j = Σ_i P_ij. w is a coarse image of c, and the product of two power
  laws is one of the same exponent, up to a logarithm. Where the log's law bends in its tail the product is steeper (log
  clicks over log rank, from 1 % to 50 % of the items: −0.61 → −0.96; Gini 0.63 → 0.78);
- activity: E[clicks of (i, u)] = n_u z_i, z_i = Σ_j P_ij, of mean ``activity``; likewise wider (−0.54 → −0.68; Gini
  0.53 → 0.60), so users with fewer clicks than any in the log appear;
- singular values of E[R̃]: all products σ_k(P) σ_l(R); co-occurrence E[R̃]ᵀ E[R̃] = (PᵀP) ⊗ (RᵀR). The draws add noise
  of norm about √(most clicks of a user) + √(most of an item), in which the smaller products drown;
- attribute marginals, exactly; an attribute's share of the clicks on {(j, v) : all j}, as P_ij knows neither u nor v.
Not kept: which j follows which (the base items v keep their order, the copies j are drawn per click: a transition
v → v′ spreads over pairs (j, j′)); the link of a profile to j; times; repeats, which are thinned with the rest.

Memory: the base log, (U + I)(k + 10) floats, and a chunk. Every draw is a hash of (seed, i, click, number of the draw).
Shapes: U users, I items, N clicks of the base; a, b factors; k triplets; C clicks of a chunk, D draws of a chunk.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ppr_dist import cli, options
from ppr_dist.arrays import Int64Array
from ppr_dist.data.counter_random import uniform
from ppr_dist.data.prepare.folder import new_folder
from ppr_dist.data.synthetic.fractal_base import BaseLog, Float64, FractalConfig, probabilities, read_base
from ppr_dist.errors import UserError

CELLS = 1 << 22
"""Draws made at a time (about 0.4 GB of memory) and written as one row group; one user is never cut."""
CERTAIN = 1.0 - 1e-9
"""A cell of probability 1 is drawn with this one."""
COPIES, BLOCK = range(2)  # purposes of a hash


def expand(interactions: str, users: str, config: FractalConfig, out: Path, *, overwrite: bool = False) -> int:
    """Write both files to the folder ``out``; return the number of clicks. Raises :class:`UserError` on bad input."""
    for path in (interactions, users):
        if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(out)):
            raise UserError(f"{path}: lies inside --out {out}, which would be replaced")
    schema = pa.schema([(name, pa.int64()) for name in ("user_id", "item_id", "position")])
    written = 0
    with (
        new_folder(out, overwrite=overwrite, marker="interactions.parquet") as folder,
        pq.ParquetWriter(folder / "interactions.parquet", schema) as clicks,
        # delay: a refusal of the input comes within the first second and is then the only line.
        tqdm(desc="fractal: reading", unit="user", unit_scale=True, delay=1.0) as bar,
    ):
        base = read_base(interactions, users)
        bar.total = config.factor_users * base.users
        bar.set_description("fractal: reducing", refresh=False)
        probability = probabilities(base, config)
        bar.set_description("fractal: writing", refresh=False)
        profile_schema = pa.schema([pa.field("user_id", pa.int64()), *base.profiles.schema])
        with pq.ParquetWriter(folder / "users.parquet", profile_schema) as profiles:
            for i in range(config.factor_users):
                user_id = pa.array(np.arange(i * base.users, (i + 1) * base.users))
                profiles.write_table(pa.table([user_id, *base.profiles.columns], schema=profile_schema))
                for low, high in _chunks(base, probability[i]):
                    columns = _clicks(base, probability[i], config, i, low, high)
                    clicks.write_table(pa.table(columns, schema=schema))
                    written += len(columns[0])
                    bar.update(high - low)
    return written


def _rates(row: Float64) -> Float64:
    """Return λ [b] with P(Poisson(λ_j) ≥ 1) = P_ij."""
    rates: Float64 = -np.log1p(-np.minimum(row, CERTAIN))
    return rates


def _chunks(base: BaseLog, row: Float64) -> Iterator[tuple[int, int]]:
    """Yield ranges of users that make about ``CELLS`` draws each."""
    clicks = max(1, int(CELLS / max(1.0, _rates(row).sum())))
    low = 0
    while low < base.users:
        high = int(np.searchsorted(base.offsets, base.offsets[low] + clicks, side="right")) - 1
        high = min(max(high, low + 1), base.users)
        yield low, high
        low = high


def _clicks(base: BaseLog, row: Float64, config: FractalConfig, i: int, low: int, high: int) -> list[Int64Array]:
    """Return user_id, item_id and position of the users (i, ``low``) … (i, ``high`` − 1).

    Each click makes Poisson(Σ λ_j) draws of a block j ∝ λ_j; the blocks hit are then independent with
    probability P_ij each, at the cost of what is written rather than of all b blocks.
    """
    rates = _rates(row)
    click = np.arange(base.offsets[low], base.offsets[high])  # [C]
    copies = np.searchsorted(_poisson(rates.sum()), uniform(config.seed, COPIES, i, click), side="right")
    drawn = np.repeat(click, copies)  # [D]
    number = np.arange(len(drawn)) - np.repeat(np.cumsum(copies) - copies, copies)
    cumulative = np.cumsum(rates) / rates.sum() if len(drawn) else rates
    block = np.searchsorted(cumulative, uniform(config.seed, BLOCK, i, drawn, number), side="right")
    block = np.minimum(block, len(row) - 1)
    # A block hit twice by one click counts once, in the place of the first draw.
    key = drawn * len(row) + block
    order = np.argsort(key, kind="stable")
    first = np.ones(len(key), dtype=bool)
    first[order[1:]] = key[order[1:]] != key[order[:-1]]
    drawn, block = drawn[first], block[first]
    user = np.searchsorted(base.offsets[low : high + 1], drawn, side="right") - 1 + low
    count = np.bincount(user - low, minlength=high - low)
    position = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    kept = slice(None) if config.max_clicks is None else position < config.max_clicks
    return [i * base.users + user[kept], block[kept] * base.items + base.item[drawn[kept]], position[kept]]


def _poisson(mean: float) -> Float64:
    """Return P(Poisson(``mean``) ≤ 0), P(… ≤ 1), …, up to where float64 ends."""
    if mean == 0.0:
        return np.ones(1)
    k = np.arange(int(mean + 12.0 * mean**0.5 + 30.0))
    log_factorial = np.cumsum(np.log(np.maximum(k, 1)))
    result: Float64 = np.cumsum(np.exp(k * np.log(mean) - mean - log_factorial))
    return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where to read and write; the rest is :class:`FractalConfig`."""

    interactions: str
    """Click log, as ``prepare`` reads it: user_id, item_id and position or timestamp."""
    users: str
    """Profiles: user_id and any attributes."""
    out: str
    """Folder to write."""
    overwrite: bool = False
    """Replace a folder this command wrote."""


def main(argv: list[str] | None = None) -> None:
    """Parse ``argv``, write the files, and say how many rows."""
    about = "A fractal expansion of a click log with profiles."
    (arguments, config), _ = options.parse(
        "ppr_dist.data.synthetic.fractal", argv, [Arguments, FractalConfig], description=about
    )
    clicks = expand(arguments.interactions, arguments.users, config, Path(arguments.out), overwrite=arguments.overwrite)
    print(f"{arguments.out}: {clicks:,} clicks, {config.factor_users} × the users, {config.factor_items} × the items")


if __name__ == "__main__":
    cli.run(main)
