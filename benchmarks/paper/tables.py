"""The paper's tables, each with what was measured here beside what the paper reports.

A table function takes a :class:`~benchmarks.paper.study.Study` and returns Markdown and what of it is kept as JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.markdown import gain, markdown
from benchmarks.paper import published
from benchmarks.paper.jobs import PROTOCOLS, Job
from benchmarks.paper.methods import METHODS
from benchmarks.paper.study import Found, Study, collect
from benchmarks.statistics import Sums, compare, corrected_t, holm, variance_components
from ppr_dist.data.manifest import load_manifest

Result = tuple[list[str], dict[str, Any]]
BASELINE, PPR, CONSTANT = "fine-tune", ("ppr-light", "ppr-full"), "constant prompt"
TUNED = (BASELINE, *PPR)
RIVALS = ("BERT4Rec", "SASRec", "MeLU", "CL4SRec")
CONTROLS = (
    BASELINE,
    "fine-tune, items frozen",
    "profile encoder only",
    CONSTANT,
    "ppr-full, items frozen",
    "ppr-light, prompt of each layer",
    "ppr-light, begins gently",
    *PPR,
)
EXTENSION = (BASELINE, *PPR, "ppr-full, items frozen", "ppr-full, items frozen, begins gently")
WARM = (BASELINE, *PPR, *(f"{name}, warm users too" for name in (BASELINE, *PPR)))
PRETRAINED_BY = (BASELINE, *(f"{BASELINE}, from {how}" for how in ("CL4SRec", "CLUE", "nothing")))
FOLDS = 5
"""Of cold users."""
SHOTS = (1, 3, 5, 7)
"""Clicks before the last target, in Figure 4; users have one more."""
USERS = (100, 300)
"""To tune on, beside all of them."""


def table1(study: Study) -> Result:
    """Share of the parameters that a method trains."""
    done = study.tested(TUNED, "joint")[study.scale.folds[0]]
    found = {name: of[0].result() for name, of in done.items()}
    whole = found[BASELINE]["trainable"]
    rows = [[name, f"{r['trainable']:,}", f"{r['trainable'] / whole:.2%}"] for name, r in found.items()]
    told = ", ".join(f"{name} {share}" for name, share in published.TUNED_SHARE.items())
    head = ["method", "trained parameters", "of those of fine-tune"]
    return [*markdown(head, rows), "", f"Paper, Table I, PPR(light): {told}."], {
        name: r["trainable"] for name, r in found.items()
    }


def table2(study: Study) -> Result:
    """Counts."""
    manifest = load_manifest(study.data(study.scale.folds[0]))
    users = {name: split.users for name, split in manifest.splits.items()}
    warm, cold = manifest.splits["pretrain"], [s for name, s in manifest.splits.items() if name != "pretrain"]
    counts = [sum(users.values()), manifest.items, warm.events, sum(split.events for split in cold)]
    rows = [[study.log.name, *(f"{count:,}" for count in counts)]]
    rows += [[f"{name} (paper)", *(f"{count:,}" for count in told)] for name, told in published.COUNTS.items()]
    head = ["data", "users", "items", "pre-training clicks", "tuning clicks"]
    split = ", ".join(f"{name} {count:,}" for name, count in users.items())
    return [*markdown(head, rows), "", f"Users of fold {study.scale.folds[0]}: {split}."], {"users": users}


def table3(study: Study) -> Result:
    """Few-shot, with weights of its own."""
    return _rankings(study, ("popularity", *RIVALS, "pre-train", *TUNED), "few-shot", ("few-shot",), "III")


def table4(study: Study) -> Result:
    """Zero-shot, with weights of its own."""
    return _rankings(study, ("popularity", "first-clicks", *TUNED), "zero-shot", ("zero-shot",), "IV")


def table5(study: Study) -> Result:
    """Few-shot and zero-shot with one set of weights, together (the paper's Table V) and apart."""
    methods = ("popularity", "first-clicks", "pre-train", *TUNED)
    return _rankings(study, methods, "joint", ("joint", "few-shot", "zero-shot"), "V")


def table6(study: Study) -> Result:
    """Few-shot, from a model pre-trained by CL4SRec."""
    return _rankings(study, ("pre-train", *TUNED), "few-shot", ("few-shot",), "VI", pretrained="cl4srec")


def table8(study: Study) -> Result:
    """Gender and age from the clicks; the model does not see the attribute it predicts."""
    lines, kept = _attributes(study, TUNED)
    told = "; ".join(f"{name} {' / '.join(map(str, of))}" for name, of in published.PREDICTION.items())
    return [*lines, "", f"Paper, Table VIII (graduate state, one value against the other): {told}."], kept


def _attributes(study: Study, methods: Sequence[str]) -> Result:
    names, rows, kept = ("accuracy", "precision", "recall", "f1"), [], {}
    for attribute in study.log.attributes:
        done = study.tested(methods, "joint", attribute=attribute)
        for method in methods:
            lines = [job.result()["lines"][0] for of in done.values() for job in of[method]]
            of_seed = np.array([[line[name] for name in names] for line in lines])
            cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(of_seed.mean(0), of_seed.std(0, ddof=1), strict=True)]
            rows.append([attribute, method, f"{np.mean([line['majority_rate'] for line in lines]):.4f}", *cells])
            kept[f"{attribute} {method}"] = of_seed.tolist()  # fold by fold
    head = ["attribute", "method", "most frequent value", *names]
    note = (
        "Means over folds and seeds ± standard deviation between them. Precision, recall and F1 are means over the"
        " values."
    )
    return [*markdown(head, rows), "", note, "", *_attributes_against(kept, len(study.scale.folds))], kept


def _attributes_against(kept: Mapping[str, Any], folds: int) -> list[str]:
    """Of what :func:`_attributes` keeps: the other methods against fine-tuning, paired by fold; nothing of one fold."""
    if folds < 2:
        return []
    found = {}
    for name, of_seed in kept.items():
        attribute, _, method = name.partition(" ")
        if method not in ("", BASELINE) and f"{attribute} {BASELINE}" in kept:
            apart = np.array(of_seed) - np.array(kept[f"{attribute} {BASELINE}"])
            by_fold = apart.reshape(folds, -1, apart.shape[-1]).mean(axis=1)
            for metric, at in (("accuracy", 0), ("f1", 3)):
                found[attribute, method, metric] = corrected_t(by_fold[:, at], FOLDS)
    adjusted = dict(zip(found, holm([p for *_, p in found.values()]), strict=True))
    rows = [
        [*key, f"{mean:+.4f} [{mean - reach:+.4f}, {mean + reach:+.4f}]", f"{p:.3g}", f"{adjusted[key]:.3g}"]
        for key, (mean, reach, p) in found.items()
    ]
    head = ["attribute", "method", "metric", f"difference to {BASELINE}, 95 % interval", "p", "p (Holm)"]
    said = f"Paired by fold, seeds averaged, corrected for what folds share; Holm over {len(found)} tests."
    return [said, "", *markdown(head, rows)]


def figure3(study: Study) -> Result:
    """Few-shot without the contrastive loss."""
    return _rankings(study, (*TUNED, *(f"{name}, no contrast" for name in PPR)), "few-shot", ("few-shot",), None)


def controls(study: Study) -> Result:
    """What freezing does, and what the prompt: one set of weights."""
    return _rankings(study, CONTROLS, "joint", ("few-shot", "zero-shot"), None)


def extension(study: Study) -> Result:
    """Not in the paper: prompts and backbone trained, items frozen, as the controls suggest; one set of weights."""
    return _rankings(study, EXTENSION, "joint", ("joint", "few-shot", "zero-shot"), None)


def warm(study: Study) -> Result:
    """Not in the paper: tuned on the first clicks of warm users too; one set of weights."""
    return _rankings(study, WARM, "joint", ("joint", "few-shot", "zero-shot"), None)


def figure4(study: Study) -> Result:
    """Few-shot with at most k clicks before the target, in tuning too; beside it one prompt for all users."""
    variants = {shots: {"cold_clicks": shots + 1} for shots in SHOTS}
    lines, kept = _varied(study, "k", variants, ("pre-train", *PPR, CONSTANT))
    return [*lines, "A user has k + 1 clicks, so the longest history before a target has k."], kept


def clue(study: Study) -> Result:
    """Not in the paper: what pre-training is worth, by next items, views beside them, views alone (CLUE), or none."""
    lines, kept = _rankings(study, PRETRAINED_BY, "few-shot", ("few-shot",), None)
    predicted, accuracies = _attributes(study, PRETRAINED_BY)
    return [*lines, "", "### attributes", "", *predicted], kept | accuracies


def users(study: Study) -> Result:
    """Few-shot when tuned on fewer users."""
    there = load_manifest(study.data(study.scale.folds[0])).splits["tune-train"].users
    return _varied(study, "users", {n: {"tune_train_users": n} for n in USERS if n < there} | {there: {}})


def _varied(study: Study, what: str, variants: Mapping[int, Mapping[str, int]], methods: Sequence[str] = PPR) -> Result:
    """Gains over fine-tuning on data prepared otherwise, with the options that the search chose for few-shot."""
    chosen, found = study.search((BASELINE, *methods), "few-shot"), {}
    for size, options in variants.items():
        found[str(size)] = collect(
            study.tested((BASELINE, *methods), "few-shot", searched=chosen, **options), "few-shot", "sampled-99"
        )
    shown = ("auc", "hit@10", "ndcg@10")
    compared = {
        (value, method, metric): compare(of[metric], method, BASELINE)
        for value, of in found.items()
        for method in methods
        for metric in shown
    }
    adjusted = dict(zip(compared, holm([each.p for each in compared.values()]), strict=True))
    rows: list[list[str]] = []
    for value, of in found.items():
        counts = f"{of['auc'].users:,}", f"{int(of['auc'].total[-1]):,}"
        rows.append([value, BASELINE, *counts, *(f"{of[metric].means[BASELINE]:.4f}" for metric in shown)])
        for method in methods:
            keys = [(value, method, metric) for metric in shown]
            rows.append([value, method, *counts, *(f"{gain(compared[k])}, p {adjusted[k]:.2g}" for k in keys)])
    note = (
        f"Of {BASELINE} the means; of the others gain over it with the 95 % interval, and p after Holm over these"
        f" {len(compared)} tests. Options as the search for few-shot on whole data chose them."
    )
    kept = {value: {metric: of[metric].as_json() for metric in shown} for value, of in found.items()}
    head = [what, "method", "test users", "instances", *(metric.upper() for metric in shown)]
    return [*markdown(head, rows), "", note], kept


def pretrainings(study: Study) -> Result:
    """Share of the variance that is pre-training's: NDCG@10 with one set of weights, fold 1."""
    first = Study(study.log, dataclasses.replace(study.scale, folds=(1,)), study.work, study.workers)
    chosen, rows, kept = first.search(TUNED, "joint"), [], {}
    by_pretraining = [
        collect(first.tested(TUNED, "joint", searched=chosen, pretrain_seed=seed), "joint", "sampled-99")["ndcg@10"]
        for seed in range(study.scale.pretrainings)
    ]
    for at, method in enumerate(TUNED):
        values = np.stack([of.by_seed[at] / of.total[-1] for of in by_pretraining])
        between, within = variance_components(values)
        means = ", ".join(f"{mean:.4f}" for mean in values.mean(axis=1))
        spread = (f"{between**0.5:.4f}", f"{within**0.5:.4f}", f"{between / (between + within):.0%}")
        rows.append([method, means, *spread])
        kept[method] = {"values": values.tolist(), "between": between, "within": within}
    gains = [f"{name} {', '.join(gain(compare(of, name, BASELINE)) for of in by_pretraining)}" for name in PPR]
    head = ["method", "by pre-training", "deviation of pre-trainings", "of seeds of tuning", "pre-training's share"]
    note = (
        "Deviations are square roots of the components of the variance (one-way analysis; what the seeds of tuning add"
        f" to means over them is taken off). Gain over {BASELINE} by pre-training: {'; '.join(gains)}."
    )
    return [*markdown(head, rows), "", note], kept


TABLES: dict[str, Callable[[Study], Result]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "table8": table8,
    "figure3": figure3,
    "figure4": figure4,
    "controls": controls,
    "extension": extension,
    "warm": warm,
    "clue": clue,
    "users": users,
    "pretrainings": pretrainings,
}


def _rankings(
    study: Study, methods: Sequence[str], task: str, shown: Sequence[str], table: str | None, **variant: Any
) -> Result:
    """Means of all methods, and every one that is tuned against fine-tuning."""
    methods = [name for name in methods if not study.only or name in study.only]
    searched = study.search(methods, task, **variant)
    done = study.tested(methods, task, searched=searched, **variant)
    lines = _of_search(study, searched)
    by_fold = {fold: {name: options for name, (options, _) in found.items()} for fold, found in searched.items()}
    kept: dict[str, Any] = {"options": by_fold}
    for protocol in PROTOCOLS:
        for which in shown:
            of = collect(done, which, protocol)
            kept[f"{which} {protocol}"] = {metric: each.as_json() for metric, each in of.items()}
            instances = f"{int(of['auc'].total[-1]):,} instances of {of['auc'].users:,} users"
            lines += ["", f"### {which}, {_WORDS[protocol]}", "", f"{instances}; ± is the deviation between seeds.", ""]
            lines += _means(of)
            lines += ["", *_against(of, table if protocol == "sampled-99" else None)]
    kept["passports"] = _passports(done)
    return lines, kept


_WORDS = {"sampled-99": "among 99 sampled items", "full": "in the whole catalogue"}


def _passports(done: Mapping[int, Mapping[str, Sequence[Job]]]) -> list[Any]:
    """Of each protocol, as the first fold's lines have them; seeds of tuning apart they are all alike."""
    first = next(iter(next(iter(done.values())).values()))[0]
    return [line["passport"] for line in first.result()["lines"]]


def _of_search(study: Study, searched: Mapping[int, Found]) -> list[str]:
    rows = []
    for fold, found in searched.items() if study.scale.nested else [(1, next(iter(searched.values())))]:
        for name, (options, trials) in found.items():
            of_best = (f"{part}.{key} {value:g}" for part, of in options.items() for key, value in of.items())
            best = max(trials, key=lambda each: each["validation"])
            validations = ", ".join(f"{each['validation']:.4f}" for each in trials)
            rows.append([str(fold), name, ", ".join(of_best), str(best["epochs"]), validations])
    head = ["fold", "method", "options of the best trial", "best epoch", "validation NDCG@50 of all trials"]
    first = 0 if study.scale.nested else 1
    table = markdown(head[first:], [row[first:] for row in rows])
    return [f"Search on {_searched_on(study)} validation users:", "", *table]


def _searched_on(study: Study) -> str:
    return "each fold's own" if study.scale.nested else "fold 1's"


def _means(of: Mapping[str, Sums]) -> list[str]:
    any_of = next(iter(of.values()))
    rows = []
    for name in any_of.names:
        spread = {metric: each.seed_deviations[name] for metric, each in of.items()}
        tuned = METHODS[name].tune is not None
        cells = [
            f"{each.means[name]:.4f}"
            + (f" ± {spread[metric]:.4f}" if tuned and spread[metric] == spread[metric] else "")
            for metric, each in of.items()
        ]
        rows.append([name, *cells])
    return markdown(["method", *(metric.upper() for metric in of)], rows)


def _against(of: Mapping[str, Sums], table: str | None) -> list[str]:
    """Each tuned method but fine-tuning against it: one family of tests."""
    names = [name for name in next(iter(of.values())).names if METHODS[name].tune and name != BASELINE]
    found = {(name, metric): compare(each, name, BASELINE) for name in names for metric, each in of.items()}
    adjusted = dict(zip(found, holm([each.p for each in found.values()]), strict=True))
    rows = []
    for (name, metric), each in found.items():
        told = published.gains(table, name, metric) if table and name in PPR else {}
        cells = [f"{each.difference:+.4f} ± {each.error:.4f}", gain(each), f"{each.effect:+.3f}", f"{each.p:.3g}"]
        paper = ", ".join(f"{data} {100 * gain:+.1f} %" for data, gain in told.items())
        rows.append([name, metric.upper(), *cells, f"{adjusted[name, metric]:.3g}", *([paper] if table else [])])
    head = ["method", "metric", "difference", "gain, 95 % interval", "effect d", "p", "p (Holm)"]
    won = [key for key in found if adjusted[key] < 0.05 and found[key].difference > 0]
    lost = [key for key in found if adjusted[key] < 0.05 and found[key].difference < 0]
    told_head = [f"the paper's gain (Table {table})"] if table else []
    verdict = (
        f"Against {BASELINE}, paired by user, standard errors over users and seeds, Holm over these {len(found)} tests"
        f" at 5 %: better {_said(won)}; worse {_said(lost)}."
    )
    return [verdict, "", *markdown([*head, *told_head], rows)]


def _said(keys: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {metric.upper()}" for name, metric in keys) or "nowhere"


def scale_words(study: Study) -> str:
    """What was run, in a sentence."""
    scale = study.scale
    folds = ", ".join(map(str, scale.folds))
    return (
        f"{scale.trials} trials for each method on {_searched_on(study)} validation users; test users of folds"
        f" {folds} of 5, {scale.seeds} seeds of tuning, one pre-training; at most {scale.epochs} epochs, best by"
        f" validation, patience {scale.patience}."
    )
