"""A run's model as one of its checkpoints has it, whole or on top of the checkpoint that it stands on."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ppr_dist import read_config, runs
from ppr_dist.build_model import attach, untuned_model
from ppr_dist.catalogue import Catalogue
from ppr_dist.checkpoint import base_checkpoint
from ppr_dist.checkpoint.loading import load_dense, load_tables
from ppr_dist.checkpoint.position import Chosen, chosen
from ppr_dist.config import Config, Model
from ppr_dist.errors import UserError
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.objectives.attribute import Attribute
from ppr_dist.objectives.labels import head_name, is_table
from ppr_dist.parallel.embeddings import ShardedEmbeddings
from ppr_dist.runs import RunInfo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint of a run, and the one it stands on, where it holds only what was tuned."""

    run: Path
    config: Config
    info: RunInfo
    checkpoint: Chosen
    base: Saved | None

    @property
    def catalogue(self) -> Catalogue:
        return self.info.catalogue_for(self.config)

    @property
    def root(self) -> Saved:
        """The whole one that it stands on in the end: itself, where it is whole."""
        return self.base.root if self.base else self

    def with_model(self, model: Model) -> Saved:
        """The same with other dropout."""
        base = self.base and self.base.with_model(model)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, model=model), base=base)


def find_saved(run: Path, init: Path | None = None, checkpoint: Chosen | None = None) -> Saved:
    """A run's ``checkpoint``, by default its :func:`chosen` one; ``init``: where the run it stands on lies now.

    Reads files on this rank alone. Raises :class:`~ppr_dist.errors.UserError` where something is missing or another.
    """
    config, info = runs.read(run)
    base = None
    if info.base:
        under = base_checkpoint.find(info.base, run, init)
        base = find_saved(under.path.parents[1], checkpoint=under)
        _require_same_model(config, base, run)
    return Saved(run=run, config=config, info=info, checkpoint=checkpoint or chosen(run), base=base)


def _require_same_model(config: Config, base: Saved, run: Path) -> None:
    """Raise :class:`UserError` where ``config``, of ``run``, describes another model than ``base`` is."""
    for name in read_config.model_sections(base.config):
        there, here = (dataclasses.asdict(read_config.section(each, name)) for each in (base.config, config))
        for key, value in there.items():
            if key != "dropout" and here.get(key) != value:
                raise UserError(
                    f"{base.checkpoint.path}: does not fit this model ({name}.{key} is {value} there, and "
                    f"{here.get(key)} in {run})"
                )


def load_model(saved: Saved, known: Mapping[Path, SequentialModel] | None = None) -> SequentialModel:
    """The model on the host. A collective.

    ``known``: models already loaded, by checkpoint. What stands on one of them shares its frozen parameters.
    """
    if saved.base is None:
        model = untuned_model(saved.config, saved.catalogue)
        attach(model, saved.info.method, saved.config, saved.catalogue)
        load_dense(model, saved.checkpoint.path)
        return model
    shared = (known or {}).get(saved.base.checkpoint.path.resolve())
    copies: dict[int, Any] = {}
    model = copy.deepcopy(shared, copies) if shared else load_model(saved.base, known)
    attach_to(model, saved.base, saved.info, saved.config)
    own = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    load_dense(model, saved.checkpoint.path, only=own)
    if shared:
        original = {id(copies[id(parameter)]): parameter for parameter in shared.parameters()}
        for name in {name for name, _ in model.named_parameters()} - own:
            owner, _, parameter = name.rpartition(".")
            module = model.get_submodule(owner)
            module.register_parameter(parameter, original[id(module.get_parameter(parameter))])
    return model


def attach_to(model: SequentialModel, pretrained: Saved, info: RunInfo, config: Config) -> list[nn.Parameter]:
    """Attach to the model of a pre-trained run what the method of ``info`` adds; returns the parameters that it had."""
    had = _scored_by_heads(pretrained.info, pretrained.config)
    for head, what in _scored_by_heads(info, config).items():
        if head in model.heads and had.get(head) != what:
            del model.heads[head]
    if info.new_catalogue:
        model.profile_encoder = None  # of an earlier task: it read tables that are not here
    return attach(model, info.method, config, info.catalogue_for(config))


def _scored_by_heads(info: RunInfo, config: Config) -> dict[str, str]:
    """By head, the values of an attribute or the labels of a space, as they are known again, and where they are."""
    catalogue = info.catalogue_for(config)
    attributes = " ".join(f"{name} {info.catalogue[name]}" for name in sorted(catalogue.hidden))
    labels = {head_name(space.name): f"{space.values} {is_table(space, config)}" for space in catalogue.labels}
    return {Attribute.name: attributes} | labels


def load_tables_of(
    saved: Saved, embeddings: ShardedEmbeddings, *, with_optimizer: bool = False, strict: bool = False
) -> None:
    """Fill the tables that the checkpoint, and those it stands on, share with ``embeddings``. A collective.

    Arguments as of :func:`load_tables`.
    """
    base = None if saved.info.new_catalogue else saved.base  # of another catalogue there are dense parameters alone
    if base:
        load_tables_of(base, embeddings, with_optimizer=with_optimizer)
    load_tables(embeddings, saved.checkpoint.path, with_optimizer=with_optimizer, strict=strict, items=base is None)
