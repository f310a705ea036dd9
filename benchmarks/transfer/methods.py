"""Tuning methods: share of trained parameters × bytes of a checkpoint × quality × seconds × memory.

Pre-training, search, seeds, folds and statistics are those of :mod:`benchmarks.paper`; a smaller pre-training that sees
but each user's last 20 clicks was worse on first clicks than popularity, and then all that is trained helps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from benchmarks.markdown import difference, markdown
from benchmarks.ml_1m import ROOT
from benchmarks.paper.methods import METHODS
from benchmarks.paper.study import Scale, Study, collect, ml_1m, synthetic
from benchmarks.statistics import compare, holm
from benchmarks.transfer.setting import Result, Setting
from ppr_dist import read_config, runs
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config

ROWS = (
    *("popularity", "pre-train", "fine-tune", "ppr-full", "ppr-light", "adapter", "pfeiffer", "patch, serial"),
    *("patch, parallel", "lora", "norms and biases", "last layer", "profile encoder only", "constant prompt"),
)
PROTOCOL, METRICS = "full", ("auc", "hit@10", "ndcg@10", "ndcg@50")


def methods(setting: Setting) -> Result:
    """Tuning methods: trained parameters, bytes of a checkpoint, few-shot quality, seconds, memory."""
    lines, kept = [], {}
    small = {"config": ROOT / "configs" / "transfer" / "pretrain.yaml", "train": {"epochs": setting.epochs}}
    scale = Scale(
        trials=setting.trials,
        seeds=setting.seeds,
        folds=(1,) if setting.quick else setting.folds,
        epochs=1 if setting.quick else Scale.epochs,
    )
    for name in setting.names:
        log = (
            ml_1m(setting.log(name), setting.work, quick=False)
            if name == "ml-1m"
            else synthetic(setting.work, quick=setting.quick)
        )
        study = Study(
            dataclasses.replace(log, pretrain=small) if setting.quick else log,
            scale,
            setting.work / "methods",
            setting.workers,
        )
        done = study.tested(ROWS, "few-shot")
        of = collect(done, "few-shot", PROTOCOL)
        tuned = [row for row in ROWS if METHODS[row].tune]
        found = {row: compare(of["ndcg@10"], row, "pre-train") for row in tuned}
        adjusted = dict(zip(found, holm([each.p for each in found.values()]), strict=True))
        table = []
        for row in ROWS:
            jobs = [job for of_method in done.values() for job in of_method[row]]
            quality = [f"{of[metric].means[row]:.4f}" for metric in METRICS]
            if row not in found:
                table.append([row, *[""] * 5, *quality, "", "", ""])
                continue
            results = [job.result() for job in jobs]
            first = results[0]
            config, info = runs.read(jobs[0].folder / "run")
            counted = formula(row, config, info.catalogue_for(config))
            star = "\\*" if adjusted[row] < 0.05 else ""
            cpu, peak = (max(r[key] for r in results) for key in ("cpu_seconds", "peak_bytes"))
            per_epoch = sum(r["cpu_seconds"] / len(r["curve"]) for r in results) / len(results)
            costs = [f"{per_epoch:.2f}", f"{cpu:.1f}", f"{peak / 1e6:.0f}"]
            sizes = [f"{first['trainable']:,}", f"{counted:,}", f"{first['trainable'] / first['parameters']:.3%}"]
            saved = f"{first['saved_bytes'] / 1e3:,.0f}"
            table.append([row, *sizes, saved, f"{difference(found[row])}{star}", *quality, *costs])
            kept[f"{name} {row}"] = {
                **{key: first[key] for key in ("trainable", "parameters", "saved_bytes")},
                "formula": counted,
                "cpu_seconds": [r["cpu_seconds"] for r in results],
                "peak_bytes": [r["peak_bytes"] for r in results],
            }
        kept[name] = {metric: each.as_json() for metric, each in of.items()}
        head = ["", "trained, as printed", "by formula", "share of all", "checkpoint, kB", "NDCG@10 − untouched"]
        head += [*(metric.upper() for metric in METRICS), "CPU s an epoch", "CPU s, most", "memory added at most, MB"]
        told = f"{int(of['auc'].total[-1]):,} few-shot instances of {of['auc'].users:,} test users"
        folds = ", ".join(map(str, scale.folds))
        lines += ["", f"## {name}", "", *markdown(head, table), ""]
        lines += [
            f"{told} (folds {folds} of 5), whole catalogue, means over {scale.seeds} seeds of tuning and one"
            f" pre-training, that of benchmarks.paper; the best of {scale.trials} trials on fold 1's validation users."
            f" NDCG@10 − untouched: paired by user, 95 % interval; \\*: Holm-corrected p < 0.05 over these {len(found)}"
            " tests. A checkpoint holds weights, the optimizer's two moments and where the run stands."
        ]
    return lines[1:], kept


def formula(row: str, config: Config, catalogue: Catalogue) -> int:
    """Trained parameters of a row, from sizes alone: SASRec, adapters of width 16, patches of D / 4, LoRA of rank 8."""
    sasrec = read_config.section(config, "sasrec")
    d, layers, inner = config.model.dim, sasrec.layers, sasrec.ffn_multiple * config.model.dim
    values, m, width = sum(catalogue.profile.values()), len(catalogue.profile), config.profiles.attribute_dim
    generator = read_config.section(config, "prompt")
    tables = values * width  # of one use of profiles

    def mlp(hidden: int, out: int) -> int:
        return m * width * hidden + hidden + hidden * out + out

    def bottleneck(given: int, to: int) -> int:
        return given * to + to + to * d + d

    rows = generator.tokens * d
    layer = (3 * d * d + 3 * d) + (d * d + d) + (d * inner + inner) + (inner * d + d) + 4 * d
    backbone = layers * layer + 2 * d + config.model.max_length * d
    prompt = tables + mlp(generator.hidden, rows)
    items = catalogue.items * d
    quarter = max(1, d // 4)
    added: Mapping[str, int] = {
        "fine-tune": items + backbone,
        "ppr-full": items + backbone + prompt,
        "ppr-light": prompt,
        "constant prompt": rows,
        "adapter": 2 * layers * bottleneck(d, 16),
        "pfeiffer": layers * bottleneck(d, 16),
        "patch, serial": 2 * layers * bottleneck(d, quarter),
        "patch, parallel": layers * (bottleneck(d, quarter) + bottleneck(inner, quarter)),
        "lora": layers * 8 * ((d + 3 * d) + (d + d) + (d + inner) + (inner + d)),
        "norms and biases": layers * (4 * d + 3 * d + d + inner + d) + 2 * d,
        "last layer": layer + 2 * d,
        "profile encoder only": 0,
    }
    return tables + mlp(config.profiles.hidden, d) + added[row]
