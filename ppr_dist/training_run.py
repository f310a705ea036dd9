"""A run that is to be trained: what it is asked to be, and whether it can be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ppr_dist import run_checks
from ppr_dist.catalogue import Catalogue
from ppr_dist.checkpoint.position import Position
from ppr_dist.config import Config
from ppr_dist.data.manifest import Manifest
from ppr_dist.data.stream.item_shares import COUNTED, Counted, ItemShares, MixedShares
from ppr_dist.errors import UserError
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.objectives import OBJECTIVES
from ppr_dist.parallel.distributed import DistributedContext, on_main
from ppr_dist.runs import RunInfo
from ppr_dist.tasks import TASKS
from ppr_dist.tracking import tensorboard_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run to be trained, before anything is built."""

    folder: Path
    data: Path
    resume: bool
    manifest: Manifest
    info: RunInfo
    split: str
    """Its name, or several names with "+" between them."""
    config: Config
    context: DistributedContext
    profile: bool = False

    @property
    def name(self) -> str:
        return self.info.method or self.info.stage

    @property
    def catalogue(self) -> Catalogue:
        """The sizes of its data, and what of it the model may not see."""
        return self.info.catalogue_for(self.config)

    @property
    def hold_out(self) -> int:
        """Last interactions of each warm user kept out of training: the targets of validation and test."""
        return (1 if self.config.train.refit else 2) if self.trains_warm else 0

    @property
    def trains_warm(self) -> bool:
        """Whether warm users are trained on."""
        return "pretrain" in self.split.split("+")

    @property
    def item_shares(self) -> ItemShares | MixedShares:
        """Each item's share of the clicks that are trained on."""
        shares, clicks = [], []
        for name in self.split.split("+"):
            counted: Counted = "train" if name == "pretrain" else "tune"
            shares.append(ItemShares(self.data, counted, self.manifest.items))
            split = self.manifest.split(name)
            clicks.append(split.events - (self.hold_out * split.users if name == "pretrain" else 0))
        if len(shares) == 1:
            return shares[0]
        return MixedShares(tuple((each, n / max(sum(clicks), 1)) for each, n in zip(shares, clicks, strict=True)))

    @property
    def shown_items(self) -> MixedShares | None:
        """Above 0 for items on which pre-training or tuning sees a click; None where no item is hidden from them."""
        if not self.manifest.settings.get("hide_items"):
            return None
        return MixedShares(tuple((ItemShares(self.data, counted, self.manifest.items), 1.0) for counted in COUNTED))

    @property
    def first_target(self) -> int:
        """0 where a user's first click is predicted too: from the profile, in tuning."""
        knows = self.info.stage == "tune" and self.catalogue.knows_users
        return 0 if knows and self.config.train.targets != "later" else 1

    @property
    def last_target(self) -> int | None:
        """Clicks of a user before the last that is predicted; None: all are."""
        clicks = 1 if self.config.train.targets == "first" else self.config.train.first_clicks
        return None if clicks is None else clicks - 1

    @property
    def validation(self) -> tuple[str, str]:
        """Task and split that choose the best checkpoint; training sees none of it."""
        cold = self.info.stage == "tune" and "tune-train" in self.split.split("+")
        usual = self.config.train.validation_task if cold else "validation"
        task = OBJECTIVES[self.config.train.objectives[0]].task or usual
        return task, "tune-validation" if TASKS[task].cold else "pretrain"

    @property
    def best_metric(self) -> str:
        """What is to be highest."""
        return self.config.train.best_metric or TASKS[self.validation[0]].best_metric


def check(run: Run) -> None:
    """Raise :class:`UserError` where a run cannot be trained as it is described; writes nothing. A collective."""
    task, name = run.validation
    split = run.manifest.splits.get(name)
    # One click each is no history.
    few = split is None or split.events <= (0 if task == "zero-shot" else split.users)
    if run.config.train.eval_every_epochs and few:
        raise UserError(
            f"train.eval_every_epochs: {run.data} has no {task} instances in {name}; prepare again with "
            "--tune-validation-fraction 0.1, or tune without validation (--train.eval_every_epochs 0)"
        )
    if run.config.train.refit and (run.info.stage != "pretrain" or not run.trains_warm):
        raise UserError("train.refit is for pre-training on warm users; leave it out")
    if run.config.train.refit and run.manifest.settings.get("hide_items"):
        raise UserError("train.refit would show items that prepare --hide-items hides; leave it out")
    tables, rate = run.config.tables, run.config.train.pretrained_lr
    if run.info.stage == "pretrain":
        given = {
            "train.pretrained_lr": rate,
            "tables.pretrained_lr": tables.pretrained_lr,
            "tables.train_items": tables.train_items,
        }
        for option, value in given.items():
            if value is not None:
                raise UserError(f"{option} is for tuning: pre-training has nothing pre-trained; leave it out")
    if run.info.new_catalogue and (tables.pretrained_lr is not None or tables.train_items is False):
        option = "train_items false" if tables.train_items is False else "pretrained_lr"
        raise UserError(f"tables.{option} is of a pre-trained table, and with --new-catalogue there is none")
    if run.first_target and run.last_target == 0:
        option = "targets first" if run.config.train.targets == "first" else "first_clicks 1"
        raise UserError(f"train.{option}: only tuning on data with profiles predicts a user's first click")
    backbone = run.config.model.backbone
    if run.config.model.target_time and not BACKBONES[backbone].reads_times:
        raise UserError(f"model.target_time: backbone {backbone} reads no times; leave it out")
    if run.config.train.last_clicks and not BACKBONES[backbone].causal:
        raise UserError(f"train.last_clicks: backbone {backbone} is trained by masks; leave it out")
    if run.config.model.target_time and not run.manifest.times:
        raise UserError(f"model.target_time: {run.data} has no times; prepare a log with a time column")
    names = TASKS[task].metric_names()
    if run.config.train.eval_every_epochs and run.best_metric not in names:
        raise UserError(f"train.best_metric {run.best_metric!r}: {task} has {', '.join(names)}")
    if run.config.logging.tensorboard:
        on_main(tensorboard_run.check_installed)
    on_main(lambda: run_checks.check_new(run.folder, run.config, run.info, resume=run.resume))


def check_metric(run: Run, position: Position) -> None:
    """Raise :class:`UserError` where a resumed run would compare validations by two metrics."""
    best = position.best
    if best and run.config.train.eval_every_epochs and best.metric != run.best_metric:
        raise UserError(f"{run.folder}: its best is by {best.metric}, now train.best_metric is {run.best_metric}")
