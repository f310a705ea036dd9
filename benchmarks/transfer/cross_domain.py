"""Users of one domain in another, without shared items (PPR, section 4.9.1 and Table VII): two parts of one log.

Of MovieLens-1M the source is the films with a genre of :data:`SOURCE` and none of :data:`TARGET`, the target the other
way round; of the synthetic catalogue the first and the second half of the topics. Users have their last :data:`CLICKS`
clicks in the target, and in the source what they clicked before the first of these that is held out.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import jobs
from benchmarks.jobs import merged
from benchmarks.markdown import markdown
from benchmarks.paper import published
from benchmarks.paper.methods import METHODS, Method, trial
from benchmarks.transfer import compare
from benchmarks.transfer.setting import NEXT, TUNE, Result, Setting
from benchmarks.transfer.training import Training

SOURCE, TARGET = {"Comedy", "Drama", "Romance"}, {"Action", "Adventure", "Sci-Fi", "Thriller"}
CLICKS, LEAST = 10, 5
"""Most clicks of a user in the target; fewest in either domain, others being left out."""
ALONE, BESIDE = "SASRec (target)", "SASRec (target), source vectors"
ROWS: dict[str, Method] = {
    ALONE: Method(tune=None, searched=("new", "dropout")),
    BESIDE: Method(tune="fine-tune", searched=("new", "dropout")),
    "MiNet": Method(tune="minet", searched=("new",)),
    **{name: METHODS[name] for name in ("fine-tune", "ppr-full", "ppr-light", "constant prompt")},
}
GAINS = (("MiNet", ALONE), ("fine-tune", ALONE), ("ppr-full", ALONE), ("ppr-full", "fine-tune"))


def cross_domain(setting: Setting) -> Result:
    """Another domain of the same users, without shared items: source vectors as prompts (PPR, Table VII)."""
    lines: list[str] = []
    kept: dict[str, Any] = {}
    for log in setting.names:
        rows, chosen = _trained(setting, log)
        of = compare.collect({"popularity": rows[ALONE], **rows}, "next-item", other={"popularity": "popularity"})
        told = [
            [f"{row} over {other}", *(_gain(of[metric].means, row, other, metric) for metric in compare.SHOWN)]
            for row, other in GAINS
        ]
        lines += ["", f"## {log}", "", *compare.table(of, "fine-tune", single=["popularity"]), ""]
        lines += markdown(["gain: here (paper)", *(metric.upper() for metric in compare.SHOWN)], told)
        kept[log] = {metric: each.as_json() for metric, each in of.items()}
        kept[f"{log} chosen"] = {row: trial(ROWS[row], number) for row, number in chosen.items()}
        kept[f"{log} best validation"] = {row: [each.result()["epochs"] for each in own] for row, own in rows.items()}
    note = (
        f"Users have their last {CLICKS} clicks in the target: the last is tested, in the target's whole catalogue, the"
        " one before validates. Of the source they have the clicks before both; the source vector knows of all of"
        " these, some of them later than a click that is trained on. All rows but popularity and"
        f" {ALONE} have it, and nothing else, as profile; MiNet has the source clicks too. {BESIDE}: fine-tune from an"
        f" untrained model. Learning rates, dropout and the contrastive loss: the best of {setting.trials} trials on"
        " validation. Paper: AliEC to AliAD."
    )
    return [note, *lines], kept


def _trained(setting: Setting, log: str) -> tuple[dict[str, list[Training]], dict[str, int]]:
    """Each row's trainings, one for each seed, done, and the trial that was best on validation."""
    place = f"{log}-domains"
    clicks = domains(setting, log, setting.work / "logs" / place)
    source = setting.prepared(f"{place}-source", log, interactions=clicks / "source.parquet", cold_threshold=LEAST)
    start = setting.pretraining(f"{place}/source", source, 0, keep=True)
    one_step = {"train": {"max_steps": 1}}  # at the beginning of warm-up
    untrained = setting.pretraining(f"{place}/untrained", source, 0, one_step, keep=True)
    vectors = Vectors(folder=setting.work / "vectors" / f"{place}-{start.digest}", start=start)
    setting.run([start, untrained], f"{log}: source")
    setting.run([vectors], f"{log}: vectors of users")
    target = setting.prepared(
        f"{place}-target",
        log,
        interactions=clicks / "target.parquet",
        user_vectors=vectors.users,
        labels={"source": clicks / "source.parquet"},
        cold_threshold=LEAST,
    )

    def training(row: str, number: int, seed: int) -> Training:
        method, options = ROWS[row], trial(ROWS[row], number)
        options.get("tables", {}).pop("pretrained_lr", None)  # items are new
        usual = {"train": {"epochs": setting.epochs, "warmup_steps": 10}}
        name = "-".join(re.findall(r"\w+", row))
        folder = f"{place}/{name}/trial-{number}"
        if method.tune is None:
            asks = {"next-item": NEXT, "popularity": {**NEXT, "baseline": "popularity"}}
            return setting.pretraining(folder, target, seed, usual, options, asks=asks)
        new = {"config": TUNE, "data": target, "method": method.tune, "split": "pretrain", "new_catalogue": True}
        same_clicks = {"train": {"seed": seed, "targets": "later"}}  # as pre-training predicts
        return Training(
            folder=setting.work / "runs" / folder / f"seed-{seed}",
            command="tune",
            options=merged(new, usual, options, same_clicks),
            start=untrained if row == BESIDE else start,
            asks={"next-item": NEXT},
        )

    searched = {row: [training(row, number, 0) for number in range(setting.trials)] for row in ROWS}
    setting.run([each for of_row in searched.values() for each in of_row], f"{log}: search")
    found = {row: [each.result()["validation"] for each in of_row] for row, of_row in searched.items()}
    chosen = {row: int(np.argmax(of_row)) for row, of_row in found.items()}
    rows = {row: [training(row, chosen[row], seed) for seed in range(setting.seeds)] for row in ROWS}
    setting.run(compare.by_seed(rows), f"{log}: cross-domain")
    return rows, chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vectors(jobs.Job):
    """Vectors of the users of a pre-trained run."""

    start: Training

    @property
    def users(self) -> Path:
        return self.folder / "users"

    @property
    def asked(self) -> dict[str, Any]:
        return {"start": self.start.digest}

    def work(self) -> dict[str, Any]:
        from ppr_dist.library import encode_users

        encode_users(run_dir=self.start.run, out=self.users, progress=False)
        return {}


def domains(setting: Setting, log: str, out: Path) -> Path:
    """Write source.parquet and target.parquet to ``out``: user_id, item_id, label (the item again), position."""
    if (out / "target.parquet").is_file():
        return out
    out.mkdir(parents=True, exist_ok=True)
    clicks = pq.read_table(setting.log(log) / "interactions.parquet")
    time = clicks["position" if "position" in clicks.column_names else "timestamp"].to_numpy()
    order = np.lexsort((time, clicks["user_id"].to_numpy()))
    user, item = (clicks[name].to_numpy()[order] for name in ("user_id", "item_id"))
    in_source, in_target = (np.isin(item, of) for of in items_of(setting, log))
    _, start, row = np.unique(user, return_index=True, return_inverse=True)
    # The user's target clicks from each click on; the last two are held out.
    before: npt.NDArray[np.int64] = np.cumsum(in_target) - in_target
    left = np.bincount(row, in_target)[row] - (before - before[start][row])
    parts = {"source": in_source & (left >= 2), "target": in_target & (left <= CLICKS)}
    enough = np.all([np.bincount(row, part) >= LEAST for part in parts.values()], axis=0)[row]
    for name, part in parts.items():
        at = np.flatnonzero(part & enough)
        columns = {"user_id": user[at], "item_id": item[at], "label": item[at], "position": at}
        pq.write_table(pa.table(columns), out / f"{name}.parquet")
    return out


def items_of(setting: Setting, log: str) -> list[list[int]]:
    """Item ids of :data:`SOURCE` and :data:`TARGET`."""
    if log == "synthetic":
        config = setting.synthetic()
        second = np.arange(config.items) % config.topics >= config.topics // 2
        return [np.flatnonzero(second == half).tolist() for half in (False, True)]
    films = pq.read_table(setting.log(log) / "items.parquet").to_pylist()
    return [
        [film["item_id"] for film in films if own & set(film["genres"]) and not other & set(film["genres"])]
        for own, other in ((SOURCE, TARGET), (TARGET, SOURCE))
    ]


def _gain(means: dict[str, float], row: str, other: str, metric: str) -> str:
    (paper,) = published.gains("VII", row, metric, other).values()
    return f"{means[row] / means[other] - 1:+.1%} ({paper:+.1%})"
