"""Build the model of a run: as pre-training makes it, and what tuning attaches to it."""

from __future__ import annotations

from torch import nn

from ppr_dist import read_config
from ppr_dist.catalogue import Catalogue
from ppr_dist.config import Config
from ppr_dist.data.stream.cloze import Cloze
from ppr_dist.errors import UserError
from ppr_dist.model.backbones import BACKBONES
from ppr_dist.model.item_encoders import ITEM_ENCODERS
from ppr_dist.model.item_encoders.combined import CombinedItems
from ppr_dist.model.sequential import SequentialModel
from ppr_dist.step_loss import make_objectives
from ppr_dist.tuning import TUNING_METHODS


def untuned_model(config: Config, catalogue: Catalogue) -> SequentialModel:
    """The model as pre-training makes it."""
    settings = read_config.section(config, config.model.backbone)
    model = SequentialModel(config.model, settings, _item_encoder(config, catalogue))
    model.attach_heads(_heads(config, None, catalogue))
    model.attach_mask(_needs_mask(config, None, catalogue))
    return model


def _item_encoder(config: Config, catalogue: Catalogue) -> CombinedItems:
    encoders, dim = {}, config.model.dim
    for name, reads in read_config.item_data_read(config, catalogue).items():
        known = {each: catalogue.item_data[each] for each in reads}
        encoders[name] = ITEM_ENCODERS[name](read_config.section(config, name), dim, known)
    return CombinedItems(encoders, dim, config.model.combine_items)


def attach(model: SequentialModel, method: str | None, config: Config, catalogue: Catalogue) -> list[nn.Parameter]:
    """Attach to an untuned model what a tuning method and its objectives add, and freeze what it does not train.

    Returns the parameters that the untuned model had.
    """
    pretrained = list(model.parameters())
    if method:
        tuning = TUNING_METHODS[method](config, catalogue)
        model.attach_heads(_heads(config, method, catalogue))
        model.attach_mask(_needs_mask(config, method, catalogue))
        tuning.attach(model)
        model.profile_uses = tuning.profile_uses
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(tuning.trainable(name))
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(
                f"--method {method}: nothing to train in the model: the data has no profiles, and no objective a head"
            )
    return pretrained


def cloze_of(config: Config) -> Cloze | None:
    """Which clicks are masked in training, where the backbone is trained so."""
    name = config.model.backbone
    return BACKBONES[name].cloze(read_config.section(config, name))


def _needs_mask(config: Config, method: str | None, catalogue: Catalogue) -> bool:
    """Whether some items are to be masked: by objectives, or because the backbone is trained and asked by masks."""
    objectives = make_objectives(config, method, catalogue)
    return not BACKBONES[config.model.backbone].causal or any(each.masks for each in objectives.values())


def _heads(config: Config, method: str | None, catalogue: Catalogue) -> dict[str, nn.Module]:
    objectives = make_objectives(config, method, catalogue).values()
    return {name: head for each in objectives for name, head in each.heads(config.model.dim).items()}
